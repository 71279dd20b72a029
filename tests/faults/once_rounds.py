"""Applications whose chains of atomic tasks leave effects that can be counted, with each ORM.

Their programs are `programs/once_<orm>.py`, and the database has the same tables with each.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any
from urllib.parse import urlsplit

import psycopg
from asynctasq.errors import BrokerUnavailable
from asynctasq.sending import tables

from ..servers import connect_mysql, postgres_database
from .deployments import PATIENCE_SECONDS, Deployment, Forks, forks
from .test_guarantees_kills import Round, is_alive

CHAINS, LENGTH = 2, 3
"""What one program begins."""

NEVER = "nothing|0|never"

LEAVING_ONE = f"COMMIT of INSERT {tables.OUTBOX}|{CHAINS}|after"
"""Killed right after its last commit, before it has sent."""


def create_tables(url: str) -> None:
    """The tables of an application, in an empty database."""
    statements = [
        "CREATE TABLE chains (id serial PRIMARY KEY, value integer NOT NULL, first_call text)",
        "CREATE TABLE effects"
        " (id serial PRIMARY KEY, chain_id integer NOT NULL, step integer NOT NULL)",
        *(s.sql for s in tables.creation("mysql" if is_mysql(url) else "postgresql")),
    ]
    with connected(url) as cursor:
        for statement in statements:
            cursor.execute(statement)


def is_mysql(url: str) -> bool:
    """Whether the database is MariaDB's."""
    return url.startswith("mysql:")


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """A cursor that commits each statement."""
    if is_mysql(url):
        database = urlsplit(url).path[1:]
        with connect_mysql(database=database, autocommit=True) as connection:
            yield connection.cursor()
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection.cursor()


@contextmanager
def forks_of(orm: str, deployment: Deployment, *modules: str) -> Iterator[Forks]:
    """What forks the programs and workers of an application, with these modules imported first."""
    paths = deployment.environment["PYTHONPATH"]
    with forks(*modules, f"once_{orm}", PYTHONPATH=paths, ASYNCTASQ_PLUGINS=orm) as forked:
        yield forked


class OnceRound(Round):
    """An application with a queue of its own.

    Args:
        url: Of its database, which has the tables.
        seen_url: The same as its programs see it.
    """

    def __init__(
        self,
        deployment: Deployment,
        forked: Forks,
        name: str,
        orm: str,
        url: str,
        seen_url: str = "",
    ) -> None:
        super().__init__(deployment, forked, name)
        self._module = f"once_{orm}"
        self._url = url
        self.deployment.settings |= {
            "ONCE_DATABASE_URL": seen_url or url,
            "ASYNCTASQ_PLUGINS": orm,
            "ASYNCTASQ_OUTBOX": "true",
            "ASYNCTASQ_MAX_DELIVERIES": "1000",  # what is left is left to others that are killed
        }

    async def end(self) -> None:
        for pid in self.workers:
            self.kill(pid)
        await super().end()

    def kill(self, pid: int) -> None:
        """Kill a process that may have ended."""
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)

    def begin(self, kill_at: str = NEVER, *, chains: int = CHAINS, program: str = "send") -> int:
        """Start a program that begins chains."""
        code = f"import {self._module}\n{self._module}.{program}({chains})\n"
        self.workers.append(self._forked.run(self.deployment, code, FAULT_KILL_AT=kill_at))
        return self.workers[-1]

    def start(self, kill_at: str = NEVER, *options: str, **settings: str) -> int:
        """Start a worker."""
        options = (self._module, "--lease", "1", "--concurrency", "4", *options)
        settings["FAULT_KILL_AT"] = kill_at
        pid = self._forked.start(self.deployment, "worker", *options, **settings)
        self.workers.append(pid)
        return pid

    async def ended(self, pid: int) -> bool:
        """Wait for the end of a process; whether it was killed at its step."""
        await self.until(lambda: not is_alive(pid), PATIENCE_SECONDS)
        self.workers.remove(pid)  # the number may soon be another's
        return (self.deployment.path / f"killed-{pid}").exists()

    def steps(self) -> list[str]:
        """What those have done that were killed at no step."""
        file = self.deployment.path / "steps"
        return file.read_text().splitlines() if file.exists() else []

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What is in the database."""
        with connected(self._url) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    async def settle(self, kill_at: str = NEVER) -> None:
        """Let a worker go on until nothing is left anywhere: nothing can come after that."""
        pid = self.start(kill_at)
        await self.settled()
        if not kill_at:  # its steps are counted: it is to come to each, however fast it was
            await self.until(lambda: "renew" in self.steps(), PATIENCE_SECONDS)
        os.kill(pid, signal.SIGTERM)
        await self.ended(pid)

    async def settled(self) -> None:
        """Wait until nothing is left anywhere."""
        try:
            async with asyncio.timeout(2 * PATIENCE_SECONDS):
                while self._has_kept() or await self._is_queued():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(self.deployment.log()[-3000:]) from None

    def _has_kept(self) -> bool:
        return bool(self.rows(f"SELECT 1 FROM {tables.OUTBOX} LIMIT 1"))

    async def _is_queued(self) -> bool:
        try:
            return any(s.waiting or s.running or s.delayed for s in await self.broker.stats())
        except BrokerUnavailable:  # the test has restarted it
            return True

    async def check(self, *, is_told: bool = True) -> int:
        """Every step of every chain that is there is done once, and told; how many there are."""
        chains = self.rows("SELECT id, value, first_call FROM chains ORDER BY id")
        effects = self.rows("SELECT chain_id, step FROM effects ORDER BY chain_id, step")
        assert effects == [(c, s) for c, *_ in chains for s in range(LENGTH)]
        assert {value for _, value, _ in chains} <= {LENGTH}
        if is_told:
            results = [await self.broker.result("default", call, 0) for *_, call in chains]
            assert None not in results
        assert not any(s.dead for s in await self.broker.stats())
        return len(chains)


@asynccontextmanager
async def application_of(
    orm: str,
    deployment: Deployment,
    forked: Forks,
    name: str,
    database: Callable[[str], AbstractContextManager[str]] = postgres_database,
) -> AsyncIterator[OnceRound]:
    """An application with a database of its own, too: an outbox belongs to one."""
    with database("asynctasq_once") as url:
        create_tables(url)
        application = OnceRound(deployment, forked, name, orm, url)
        try:
            yield application
        finally:
            await application.end()


#: Opens an application of a name.
Opening = Callable[[str], AbstractAsyncContextManager[OnceRound]]


async def kill_at_every_step(
    open_one: Opening,
    lanes: int,
    senders: Sequence[str],
    workers: Sequence[str],
    leaving_one: str,
) -> None:
    """Kill a program, and a worker, at each of these steps; then all must have happened once.

    Args:
        lanes: How many applications share the steps, side by side, as each of them often waits.
        leaving_one: The step whose kill leaves chains to a worker.
    """

    async def lane(number: int) -> None:
        mine = workers[number::lanes]
        async with open_one(f"lane-{number}") as application:
            killed = [
                await application.ended(application.begin(kill_at))
                for kill_at in senders[number::lanes]
            ]
            # How much it can do at its very end is limited in time.
            assert sum(killed) > len(killed) / 2
            for kill_at in mine:
                assert await application.ended(application.begin(leaving_one))
                was_killed = await application.ended(application.start(kill_at))
                assert was_killed, f"{kill_at}: {application.deployment.log()[-3000:]}"
            await application.settle()
            assert await application.check() >= CHAINS * len(mine)

    async with asyncio.TaskGroup() as group:
        for number in range(lanes):
            group.create_task(lane(number))


async def kill_at_random(open_one: Opening, lanes: int, rounds: int) -> None:
    """Kill workers, and every second program, at any moment; then all must have happened once."""

    async def lane(number: int) -> None:
        async with open_one(f"random-{number}") as application:
            for n in range(rounds):
                sender, worker = application.begin(), application.start()
                await asyncio.sleep(random.uniform(0.05, 0.6))  # the subject: any moment
                application.kill(worker)
                if n % 2:
                    application.kill(sender)
                await application.ended(sender)
            await application.settle()
            assert await application.check() > 0

    async with asyncio.TaskGroup() as group:
        for number in range(lanes):
            group.create_task(lane(number))
