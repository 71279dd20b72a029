"""SIGKILL at every step of a chain of atomic tasks: its effects are in the database exactly once.

A step is a statement, a commit, or a call of the broker, in the program that begins the chains and
in the worker; one is killed just before and just after each. Whether it had committed tells the
database alone: every chain that is there comes to its end, and nothing else is there.

Programs and workers are forks that have their imports behind them, and what one leaves is left to
the next, which is killed as well: so there is a kill in a fraction of a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from asynctasq.sending import tables

from ..servers import postgres_url
from .deployments import PATIENCE_SECONDS, Deployment, Forks, forks
from .test_guarantees_kills import Round, is_alive

NAME = f"asynctasq_once_{uuid4().hex[:12]}"
CHAINS, LENGTH = 2, 3
ROUNDS = int(os.environ.get("ASYNCTASQ_KILL_ROUNDS", "5"))

#: Applications side by side, since waiting is a large part of each.
LANES = 3

NEVER = "nothing|0|never"

#: Right after its last commit, before it has sent.
LEAVING_ONE = f"COMMIT of INSERT {tables.OUTBOX}|{CHAINS}|after"

#: What every program that begins chains does, and every worker that runs them, whatever its ORM is.
SENDING = {
    "INSERT chains",
    f"INSERT {tables.OUTBOX}",
    f"COMMIT of INSERT {tables.OUTBOX}",
    "put",
}
WORKING = {
    "start",
    "take",
    "renew",
    "SELECT chains",
    f"SELECT {tables.DONE}",
    "UPDATE chains",
    "INSERT effects",
    f"INSERT {tables.OUTBOX}",
    f"INSERT {tables.DONE}",
    f"UPDATE {tables.DONE}",
    "put",
    "settle",
    f"DELETE {tables.OUTBOX}",
    f"COMMIT of DELETE {tables.OUTBOX}",
    f"SELECT {tables.OUTBOX}",
    f"SELECT {tables.OUTBOX} SKIP LOCKED",
    "put by the relay",
}

#: Each adapter and each broker at least once.
APPLICATIONS = [
    ("sqlalchemy", "redis"),
    ("sqlalchemy", "postgres"),
    ("django", "sqlite"),
    ("tortoise", "redis"),
]


@pytest.fixture(scope="module")
def template() -> Iterator[str]:
    """The URL of a database with the tables, from which those of applications are copied."""
    administer(f"CREATE DATABASE {NAME}")
    url = postgres_url().rpartition("/")[0] + f"/{NAME}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE chains (id serial PRIMARY KEY, value integer NOT NULL, call text)"
        )
        connection.execute(
            "CREATE TABLE effects"
            " (id serial PRIMARY KEY, chain_id integer NOT NULL, step integer NOT NULL)"
        )
        for statement in tables.creation("postgresql"):
            connection.execute(statement.sql)
    yield url
    administer(f"DROP DATABASE {NAME} WITH (FORCE)")


def administer(statement: str) -> None:
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        connection.execute(statement)


class OnceRound(Round):
    """An application with a queue and a database of its own: an outbox belongs to one."""

    def __init__(self, deployment: Deployment, forked: Forks, name: str, orm: str) -> None:
        super().__init__(deployment, forked, name)
        self._module = f"once_{orm}"
        self._database = f"{NAME}_{uuid4().hex[:12]}"
        administer(f"CREATE DATABASE {self._database} TEMPLATE {NAME}")
        self._url = postgres_url().rpartition("/")[0] + f"/{self._database}"
        self.deployment.settings |= {
            "ONCE_DATABASE_URL": self._url,
            "ASYNCTASQ_PLUGINS": orm,
            "ASYNCTASQ_OUTBOX": "true",
            "ASYNCTASQ_MAX_DELIVERIES": "1000",  # what is left is left to others that are killed
        }
        self._connection = psycopg.connect(self._url, autocommit=True)

    async def end(self) -> None:
        await super().end()
        self._connection.close()
        administer(f"DROP DATABASE {self._database} WITH (FORCE)")

    def begin(self, kill_at: str = NEVER) -> int:
        """Start the program that begins chains."""
        code = f"import {self._module}\n{self._module}.send({CHAINS})\n"
        return self._forked.run(self.deployment, code, FAULT_KILL_AT=kill_at)

    def start(self, kill_at: str = NEVER) -> int:
        """Start a worker."""
        arguments = ("worker", self._module, "--lease", "1", "--concurrency", "4")
        self.workers.append(self._forked.start(self.deployment, *arguments, FAULT_KILL_AT=kill_at))
        return self.workers[-1]

    async def ended(self, pid: int) -> bool:
        """Wait for the end of a process; whether it was killed at its step."""
        await self.until(lambda: not is_alive(pid), PATIENCE_SECONDS)
        return (self.deployment.path / f"killed-{pid}").exists()

    def steps(self) -> list[str]:
        """What those have done that were killed at no step."""
        file = self.deployment.path / "steps"
        return file.read_text().splitlines() if file.exists() else []

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What is in the database."""
        return self._connection.execute(sql).fetchall()

    async def settle(self, kill_at: str = NEVER) -> None:
        """Let a worker go on until nothing is left anywhere: nothing can come after that."""
        pid = self.start(kill_at)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self._is_settled():
                await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGTERM)
        await self.ended(pid)

    async def _is_settled(self) -> bool:
        if self.rows(f"SELECT 1 FROM {tables.OUTBOX} LIMIT 1"):
            return False
        stats = await self.broker.stats()
        return not any(s.waiting or s.running or s.delayed for s in stats)

    async def check(self) -> int:
        """Every step of every chain that is there is done once, and told; how many there are."""
        chains = self.rows("SELECT id, value, call FROM chains ORDER BY id")
        effects = self.rows("SELECT chain_id, step FROM effects ORDER BY chain_id, step")
        assert effects == [(c, s) for c, *_ in chains for s in range(LENGTH)]
        assert {value for _, value, _ in chains} <= {LENGTH}
        results = [await self.broker.result("default", call, 0) for *_, call in chains]
        assert None not in results
        assert not any(s.dead for s in await self.broker.stats())
        return len(chains)


@pytest.fixture(params=APPLICATIONS, ids="-".join)
def application(
    request: pytest.FixtureRequest, template: str
) -> Iterator[tuple[str, Deployment, Forks]]:
    """An ORM, a deployment, and what forks its programs and workers."""
    orm, broker = request.param
    deployment: Deployment = request.getfixturevalue(f"{broker}_deployment")
    paths = deployment.environment["PYTHONPATH"]
    with forks(f"once_{orm}", PYTHONPATH=paths, ASYNCTASQ_PLUGINS=orm) as forked:
        yield orm, deployment, forked


async def count_steps(round_: OnceRound) -> tuple[Counter[str], Counter[str]]:
    """Of a program that begins chains, and of a worker to which another left one to be sent."""
    await round_.ended(round_.begin(kill_at=""))
    sent = round_.steps()
    assert await round_.ended(round_.begin(LEAVING_ONE))
    await round_.settle(kill_at="")
    assert await round_.check() == 2 * CHAINS
    return Counter(sent), Counter(round_.steps()[len(sent) :])


def kills(steps: Counter[str]) -> list[str]:
    """Before the first of each kind, and after it where it changes anything; twice for commits."""
    return [
        f"{step}|{number}|{when}"
        for step, times in steps.items()
        for number in ((1, 2) if "COMMIT" in step and times >= CHAINS * LENGTH else (1,))
        for when in ("before", *(() if "SELECT" in step else ("after",)))
    ]


@pytest.mark.timeout(300)
async def test_a_kill_at_any_step_leaves_every_effect_once(
    application: tuple[str, Deployment, Forks],
) -> None:
    orm, deployment, forked = application
    counting = OnceRound(deployment, forked, "counting", orm)
    try:
        sent, worked = await count_steps(counting)
    finally:
        await counting.end()
    assert sent.keys() >= SENDING
    assert worked.keys() >= WORKING

    async def lane(number: int, senders: Sequence[str], workers: Sequence[str]) -> None:
        round_ = OnceRound(deployment, forked, f"lane-{number}", orm)
        try:
            # How much it can do at its very end is limited in time.
            killed = [await round_.ended(round_.begin(kill_at)) for kill_at in senders]
            assert sum(killed) > len(senders) / 2
            for kill_at in workers:
                assert await round_.ended(round_.begin(LEAVING_ONE))
                assert await round_.ended(round_.start(kill_at)), kill_at
            await round_.settle()
            assert await round_.check() >= CHAINS * len(workers)
        finally:
            await round_.end()

    async with asyncio.TaskGroup() as lanes:
        for n in range(LANES):
            lanes.create_task(lane(n, kills(sent)[n::LANES], kills(worked)[n::LANES]))


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_kills_at_random_moments_leave_every_effect_once(
    application: tuple[str, Deployment, Forks],
) -> None:
    orm, deployment, forked = application

    async def lane(number: int) -> None:
        round_ = OnceRound(deployment, forked, f"random-{number}", orm)
        try:
            for n in range(ROUNDS):
                sender, worker = round_.begin(), round_.start()
                await asyncio.sleep(random.uniform(0.05, 0.6))  # the subject: any moment
                for pid in (worker, sender) if n % 2 else (worker,):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await round_.ended(sender)
            await round_.settle()
            assert await round_.check() > 0
        finally:
            await round_.end()

    async with asyncio.TaskGroup() as lanes:
        for n in range(LANES):
            lanes.create_task(lane(n))
