"""SIGKILL at every step of a chain of atomic tasks: its effects are in the database exactly once.

A step is a statement, a commit, or a call of the broker, in the program that begins the chains and
in the worker; it is killed just before or just after each. Whether it had committed tells the
database alone: every chain that is there comes to its end, and nothing else is there.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from asynctasq.tasks.task import registry

from ..servers import postgres_url
from .deployments import Deployment, Forks, forks
from .test_guarantees_kills import Round, is_alive, side_by_side

NAME = f"asynctasq_once_{os.getpid()}"
CHAINS, LENGTH = 2, 3
ROUNDS = int(os.environ.get("ASYNCTASQ_KILL_ROUNDS", "10"))


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a database with the tables, from which those of rounds are copied."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from .programs import once_tasks

    # No task of this process: where no adapter is in use, no worker could run it.
    registry.pop(once_tasks.advance.name)
    administer(f"CREATE DATABASE {NAME}")
    url = postgres_url().rpartition("/")[0] + f"/{NAME}"
    engine = create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool
    )
    once_tasks.Base.metadata.create_all(engine)
    yield url
    administer(f"DROP DATABASE {NAME} WITH (FORCE)")


def administer(statement: str) -> None:
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        connection.execute(statement)


class Account:
    """What is in the database of one round."""

    def __init__(self, database: str) -> None:
        with psycopg.connect(database) as connection:
            chains: list[tuple[Any, Any]] = connection.execute(
                "SELECT id, value FROM chains"
            ).fetchall()
            effects = connection.execute(
                "SELECT chain_id, step FROM effects ORDER BY chain_id, step"
            ).fetchall()
        self.chains = dict(chains)
        self.effects: list[tuple[Any, ...]] = effects

    def is_settled(self) -> bool:
        return all(value >= LENGTH for value in self.chains.values())

    def check(self) -> None:
        """Every step of every chain that was begun is done once."""
        assert self.effects == [(c, s) for c in sorted(self.chains) for s in range(LENGTH)]
        assert set(self.chains.values()) <= {LENGTH}


class OnceRound(Round):
    """A round with a database of its own: an outbox belongs to one application."""

    def __init__(self, deployment: Deployment, forked: Forks, name: str, database: str) -> None:
        super().__init__(deployment, forked, name)
        self.name = f"{NAME}_{uuid4().hex[:12]}"
        administer(f"CREATE DATABASE {self.name} TEMPLATE {NAME}")
        self.database = database.rpartition("/")[0] + f"/{self.name}"
        own = self.database.replace("postgresql://", "postgresql+asyncpg://")
        self.deployment.settings["ONCE_DATABASE_URL"] = own

    async def end(self) -> None:
        await super().end()
        administer(f"DROP DATABASE {self.name} WITH (FORCE)")

    def begin(self, kill_at: str = "0:never") -> int:
        """Start the program that begins chains."""
        code = f"import killed_at_step, once_tasks\nonce_tasks.send({CHAINS})\n"
        settings = {"FAULT_KILL_AT": kill_at}
        return self._forked._fork(self.deployment, settings, {"code": code})

    def start(self, kill_at: str = "0:never") -> int:
        """Start a worker."""
        arguments = ("worker", "killed_at_step", "once_tasks", "--lease", "1")
        pid = self._forked.start(self.deployment, *arguments, FAULT_KILL_AT=kill_at)
        self.workers.append(pid)
        return pid

    def account(self) -> Account:
        """What is in the database."""
        return Account(self.database)

    async def settle(self) -> Account:
        """Let a worker go on until all is done, and a little longer, for what must not be done."""
        self.start()
        await self.until(lambda: self.account().is_settled(), 60)
        await asyncio.sleep(0.5)  # the subject: nothing comes after
        return self.account()


@pytest.fixture
def forked() -> Iterator[Forks]:
    with forks() as program:
        yield program


@pytest.fixture
def once(deployment: Deployment) -> Deployment:
    """A deployment with an outbox, whose tasks work in databases."""
    deployment.settings |= {
        "ASYNCTASQ_PLUGINS": "sqlalchemy",
        "ASYNCTASQ_OUTBOX": "true",
    }
    return deployment


async def count_steps(once: Deployment, forked: Forks, database: str) -> tuple[int, int]:
    """Of the program that begins chains, and of a worker, when neither is killed."""
    round_ = OnceRound(once, forked, "counting", database)
    calls = round_.deployment.path / "calls"
    sender = round_.begin("")
    await round_.until(lambda: not is_alive(sender))
    sent = len(calls.read_text().split())
    worker = round_.start("")
    await round_.until(lambda: round_.account().is_settled())
    worked = len(calls.read_text().split()) - sent
    os.kill(worker, signal.SIGTERM)
    await round_.until(lambda: not is_alive(worker))
    round_.account().check()
    await round_.end()
    return sent, worked


@pytest.mark.skipif(
    "ASYNCTASQ_TEST_ALL_STEPS" not in os.environ,
    reason="takes up to a quarter of an hour: set ASYNCTASQ_TEST_ALL_STEPS=1",
)
@pytest.mark.timeout(900)
async def test_a_kill_at_any_step_leaves_every_effect_once(
    once: Deployment, forked: Forks, database: str
) -> None:
    sent, worked = await count_steps(once, forked, database)
    assert sent >= 4 * CHAINS
    assert worked >= 5 * CHAINS * LENGTH
    killed: list[str] = []

    async def one(who: str, number: int, when: str) -> None:
        round_ = OnceRound(once, forked, f"{who}-{when}-{number}", database)
        try:
            kill_at = f"{number}:{when}"
            sender = round_.begin(kill_at if who == "sender" else "0:never")
            await round_.until(lambda: not is_alive(sender))
            if who == "worker":
                doomed = round_.start(kill_at)
                await round_.until(lambda: not is_alive(doomed) or round_.account().is_settled())
            killed.extend(file.name for file in round_.deployment.path.glob("killed-*"))
            account = await round_.settle()
            account.check()
            assert len(account.chains) == CHAINS or who == "sender"
        finally:
            await round_.end()

    rounds: list[Callable[[], Awaitable[None]]] = [
        lambda who=who, number=number, when=when: one(who, number, when)  # type: ignore[misc]
        for who, steps in (("sender", sent), ("worker", worked))
        for number in range(1, steps + 1)
        for when in ("before", "after")
    ]
    await side_by_side(rounds)
    assert len(killed) > len(rounds) / 2


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_kills_at_random_moments_leave_every_effect_once(
    once: Deployment, forked: Forks, database: str
) -> None:
    async def one(number: int) -> None:
        round_ = OnceRound(once, forked, f"random-{number}", database)
        try:
            sender = round_.begin()
            for _ in range(3):
                pid = round_.start()
                await asyncio.sleep(random.uniform(0.05, 0.6))  # the subject: any moment
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await round_.until(lambda: not is_alive(sender))
            account = await round_.settle()
            account.check()
            assert len(account.chains) == CHAINS
        finally:
            await round_.end()

    await side_by_side([lambda n=n: one(n) for n in range(ROUNDS)])  # type: ignore[misc]
