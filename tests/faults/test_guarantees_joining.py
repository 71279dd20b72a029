"""SIGKILL at every step, where the queues are in the application's own database.

The programs are those of `test_guarantees_once`, but for their tables: there is no outbox, and no
table of what is done. A message is put, and a delivery settled, in the application's transactions.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from asynctasq.tasks.task import registry

from ..servers import postgres_database
from .deployments import Deployment, Forks
from .test_guarantees_kills import Round, is_alive, side_by_side
from .test_guarantees_once import CHAINS, LENGTH, Account, OnceRound, administer, forked

__all__ = ["forked"]

ROUNDS = int(os.environ.get("ASYNCTASQ_KILL_ROUNDS", "10"))

#: Of a worker's steps so many are killed at, before and after, unless all are.
SAMPLE = 1000 if "ASYNCTASQ_TEST_ALL_STEPS" in os.environ else 6


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a database with the application's tables, for rounds to be copied from."""
    from sqlalchemy import Table, create_engine
    from sqlalchemy.pool import NullPool

    from .programs import once_tasks

    # No task of this process: where no adapter is in use, no worker could run it.
    registry.pop(once_tasks.advance.name, None)
    with postgres_database("asynctasq_joined") as url:
        engine = create_engine(
            url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool
        )
        tables = (once_tasks.Chain.__table__, once_tasks.Effect.__table__)
        own = [table for table in tables if isinstance(table, Table)]
        once_tasks.Base.metadata.create_all(engine, tables=own)
        yield url


class JoinedRound(OnceRound):
    """A round whose queues are in its own database."""

    def __init__(self, folder: Path, forked: Forks, name: str, database: str) -> None:
        server, _, template = database.rpartition("/")
        self.name = f"asynctasq_joined_{uuid4().hex[:12]}"
        administer(f"CREATE DATABASE {self.name} TEMPLATE {template}")
        self.database = f"{server}/{self.name}"
        settings = {
            "ASYNCTASQ_DRIVER": "postgres",
            "ASYNCTASQ_POSTGRES_URL": self.database,
            "ASYNCTASQ_POSTGRES_SCHEMA": "queues",
            "ASYNCTASQ_PLUGINS": "sqlalchemy",
            "ONCE_DATABASE_URL": self.database.replace("postgresql://", "postgresql+asyncpg://"),
        }
        Round.__init__(self, Deployment(folder, settings), forked, name)

    def is_empty(self) -> bool:
        """Whether there are queues, without messages in whatever state."""
        table = f"{self.deployment.settings['ASYNCTASQ_POSTGRES_SCHEMA']}.message"
        with psycopg.connect(self.database) as connection:
            if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
                return False
            count = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        return count == (0,)

    async def finish(self) -> Account:
        """Let a worker go on until the queues are empty."""
        self.start()
        await self.until(self.is_empty, 60)
        return self.account()


async def count_steps(folder: Path, forked: Forks, database: str) -> tuple[int, int]:
    """Of the program that begins chains, and of a worker, when neither is killed."""
    round_ = JoinedRound(folder, forked, "counting", database)
    try:
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
    finally:
        await round_.end()
    return sent, worked


@pytest.mark.timeout(900)
async def test_a_kill_at_any_step_neither_loses_nor_repeats(
    tmp_path: Path, forked: Forks, database: str
) -> None:
    sent, worked = await count_steps(tmp_path, forked, database)
    assert sent >= 3 * CHAINS
    assert worked >= 4 * CHAINS * LENGTH
    killed: list[str] = []

    async def one(who: str, number: int, when: str) -> None:
        round_ = JoinedRound(tmp_path, forked, f"{who}-{when}-{number}", database)
        try:
            kill_at = f"{number}:{when}"
            sender = round_.begin(kill_at if who == "sender" else "0:never")
            await round_.until(lambda: not is_alive(sender))
            if who == "worker":
                doomed = round_.start(kill_at)
                await round_.until(lambda: not is_alive(doomed) or round_.account().is_settled())
            killed.extend(file.name for file in round_.deployment.path.glob("killed-*"))
            account = await round_.finish()
            account.check()
            assert len(account.chains) == CHAINS or who == "sender"
        finally:
            await round_.end()

    steps = range(1, worked + 1)
    rounds: list[Callable[[], Awaitable[None]]] = [
        partial(one, who, number, when)
        for who, numbers in (
            ("sender", range(1, sent + 1)),
            ("worker", sorted(random.sample(steps, min(SAMPLE, worked)))),
        )
        for number in numbers
        for when in ("before", "after")
    ]
    await side_by_side(rounds)
    assert len(killed) > len(rounds) / 2


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_kills_at_random_moments_neither_lose_nor_repeat(
    tmp_path: Path, forked: Forks, database: str
) -> None:
    async def one(number: int) -> None:
        round_ = JoinedRound(tmp_path, forked, f"random-{number}", database)
        try:
            sender = round_.begin()
            for _ in range(3):
                pid = round_.start()
                await asyncio.sleep(random.uniform(0.05, 0.6))  # the subject: any moment
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await round_.until(lambda: not is_alive(sender))
            account = await round_.finish()
            account.check()
            assert len(account.chains) == CHAINS
        finally:
            await round_.end()

    await side_by_side([partial(one, number) for number in range(ROUNDS)])
