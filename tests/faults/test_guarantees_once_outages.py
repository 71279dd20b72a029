"""Chains of atomic tasks while servers and networks fail: their effects are in the database once.

With each ORM, on servers that the test stops, empties and restarts.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import pytest
from asynctasq.brokers import Outgoing
from asynctasq.sending import tables

from ..missing import missing
from ..postgres_servers import PostgresProcess, find_postgres
from ..servers import postgres_database
from .deployments import PATIENCE_SECONDS, Deployment, Forks
from .once_rounds import (
    CHAINS,
    LEAVING_ONE,
    LENGTH,
    NEVER,
    OnceRound,
    application_of,
    create_tables,
    forks_of,
)
from .relays import Relay, Reply, relay, reset, whole

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["sqlalchemy", "django", "tortoise"])
def orm(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# --- the broker -------------------------------------------------------------------------


@pytest.fixture
def server(start_redis: Any) -> Any:
    """A Redis server that keeps nothing."""
    return start_redis("--save", "", "--appendonly", "no")


@pytest.fixture
def own_redis(server: Any, tmp_path: Path) -> Deployment:
    settings = {
        "ASYNCTASQ_DRIVER": "redis",
        "ASYNCTASQ_REDIS_URL": server.url,
        "ASYNCTASQ_REDIS_KEY_PREFIX": "once",
        "ASYNCTASQ_REDIS_TIMEOUT": "1",
        "ASYNCTASQ_REDIS_CONNECT_TIMEOUT": "1",
    }
    return Deployment(tmp_path, settings)


async def test_what_is_committed_without_the_broker_is_sent_when_it_is_back_and_empty(
    orm: str, own_redis: Deployment, server: Any
) -> None:
    with forks_of(orm, own_redis) as forked:
        async with application_of(orm, own_redis, forked, "away") as application:
            application.start()
            await application.ended(application.begin())
            await application.settled()
            assert await application.check() == CHAINS
            server.kill()
            senders = [application.begin() for _ in range(3)]
            for sender in senders:
                await application.ended(sender)
            assert application.rows(f"SELECT count(*) FROM {tables.OUTBOX}") == [(3 * CHAINS,)]
            server.start()
            await application.settled()
            assert await application.check(is_told=False) == 4 * CHAINS


async def test_a_broker_that_forgets_everything_repeats_nothing(
    orm: str, own_redis: Deployment, server: Any
) -> None:
    with forks_of(orm, own_redis) as forked:
        async with application_of(orm, own_redis, forked, "flushed") as application:
            application.start()
            for _ in range(5):
                sender = application.begin(chains=4)
                await asyncio.sleep(random.uniform(0.05, 0.5))  # the subject: any moment
                with server.client() as client:
                    client.flushall()
                await application.ended(sender)
            await application.settled()
            # What the broker had forgotten cannot be known of.
            done = application.rows(
                "SELECT value, (SELECT array_agg(step ORDER BY step) FROM effects"
                " WHERE chain_id = chains.id) FROM chains"
            )
            assert all((steps or []) == [*range(value)] for value, steps in done)
            await application.ended(application.begin())
            await application.settled()
            last = application.rows(f"SELECT value FROM chains ORDER BY id DESC LIMIT {CHAINS}")
            assert last == [(LENGTH,)] * CHAINS


# --- messages ---------------------------------------------------------------------------


async def test_a_message_delivered_to_two_workers_at_once_is_done_once(
    orm: str, redis_deployment: Deployment
) -> None:
    queues = ("default", "second")
    with forks_of(orm, redis_deployment) as forked:
        async with application_of(orm, redis_deployment, forked, "copies") as application:
            for _ in range(5):
                assert await application.ended(application.begin(LEAVING_ONE))
            rows = application.rows(f"SELECT id, body FROM {tables.OUTBOX}")
            await application.broker.put(
                [Outgoing(queue, id_, bytes(body)) for queue in queues for id_, body in rows]
            )
            for queue in queues:
                application.start(NEVER, "--queues", queue)
            await application.settled()
            assert await application.check() == 5 * CHAINS


async def test_workers_that_all_believe_to_lead_send_and_do_everything_once(
    orm: str, redis_deployment: Deployment
) -> None:
    redis_deployment.settings["FAULT_ALL_LEAD"] = "yes"
    with forks_of(orm, redis_deployment) as forked:
        async with application_of(orm, redis_deployment, forked, "leaders") as application:
            for _ in range(3):
                application.start()
            for _ in range(8):
                assert await application.ended(application.begin(LEAVING_ONE))
            await application.settled()
            assert await application.check() == 8 * CHAINS


# --- the database -----------------------------------------------------------------------


def losing_commits(is_lost: Callable[[int], bool]) -> Reply:
    """Resets the connection instead of telling that a commit of new rows has succeeded.

    Args:
        is_lost: Whether that of this number is lost.
    """
    numbers, writing = count(), WeakSet[asyncio.StreamWriter]()

    async def reply(data: bytes, client: asyncio.StreamWriter) -> bool:
        if b"INSERT 0 " in data:
            writing.add(client)
        if b"COMMIT\0" in data and client in writing and is_lost(next(numbers)):
            return await reset(data, client)
        return await whole(data, client)

    return reply


@asynccontextmanager
async def behind(
    orm: str, deployment: Deployment, forked: Forks
) -> AsyncIterator[tuple[OnceRound, Relay]]:
    """An application that reaches its database through a relay."""
    with postgres_database("asynctasq_once") as url:
        create_tables(url)
        parts = urlsplit(url)
        with relay(parts.port or 5432) as network:
            netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{network.port}"
            seen_url = parts._replace(netloc=netloc).geturl()
            application = OnceRound(deployment, forked, "behind", orm, url, seen_url)
            try:
                yield application, network
            finally:
                await application.end()


async def test_a_commit_without_an_answer_is_no_dispatch_dropped_and_no_effect_twice(
    orm: str, redis_deployment: Deployment
) -> None:
    with forks_of(orm, redis_deployment) as forked:
        async with behind(orm, redis_deployment, forked) as (application, network):
            network.reply = losing_commits(lambda number: True)
            await application.ended(application.begin(program="doubt", chains=3))
            doubts = (application.deployment.path / "doubts").read_text().splitlines()
            assert [doubt.split()[0] for doubt in doubts] == ["uncommitted"] * 3
            network.reply = losing_commits(lambda number: number % 2 == 0 and number < 20)
            application.start()
            await application.settled()
            assert await application.check() == 3


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresProcess]:
    """A server that the test may end."""
    programs = find_postgres()
    if programs is None:
        missing("a PostgreSQL to start")
    # Deep enough for nobody: pytest's own folders are for their user alone.
    folder = Path(os.path.realpath("/tmp")) / f"asynctasq-{tmp_path.name}-{os.getpid()}"
    folder.mkdir()
    server = PostgresProcess(programs, folder)
    server.start()
    yield server
    server.kill()


async def test_a_database_that_crashes_under_its_commits_has_every_effect_once(
    orm: str, redis_deployment: Deployment, own_postgres: PostgresProcess
) -> None:
    create_tables(own_postgres.url)
    with forks_of(orm, redis_deployment) as forked:
        application = OnceRound(redis_deployment, forked, "crashing", orm, own_postgres.url)

        async def crash() -> None:
            chains = "SELECT count(*) FROM chains"
            before = application.rows(chains)
            sender = application.begin(program="doubt", chains=8)
            await application.until(lambda: application.rows(chains) > before, PATIENCE_SECONDS)
            await asyncio.sleep(random.uniform(0, 0.3))  # the subject: any moment
            own_postgres.kill()
            own_postgres.start()
            await application.ended(sender)

        try:
            application.start()
            for _ in range(4):
                await crash()
            await application.settled()
            assert await application.check() > 0
        finally:
            await application.end()


# --- the clock --------------------------------------------------------------------------


async def test_clocks_that_are_set_back_lose_and_repeat_nothing(deployment: Deployment) -> None:
    with forks_of("sqlalchemy", deployment, "set_clock") as forked:
        async with application_of("sqlalchemy", deployment, forked, "clocks") as application:
            clock = application.deployment.path / "clock"
            application.start()
            for seconds in (0, -5, -3600, -86400):
                clock.write_text(str(seconds))
                await application.ended(application.begin())
                assert await application.ended(application.begin(LEAVING_ONE))
            await application.settled()
            assert await application.check(is_told=False) == 8 * CHAINS
