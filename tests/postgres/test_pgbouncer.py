"""The broker behind pgbouncer in transaction mode: any statement may meet another connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from asynctasq.brokers import ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq_postgres import Config
from asynctasq_postgres.broker import PostgresBroker
from asynctasq_postgres.consumer import PostgresConsumer

from .brokers import OpenPostgres, postgres_brokers
from .pgbouncers import connections_to_server, pgbouncer


@pytest.fixture(params=[0, 100], ids=["without-prepared", "with-prepared"])
def pooled(request: pytest.FixtureRequest, url: str) -> Iterator[str]:
    """The database by way of a pgbouncer that knows prepared statements or does not."""
    with pgbouncer(url, prepared=request.param) as found:
        yield found


@pytest.fixture
async def open_pooled(pooled: str, url: str) -> AsyncIterator[OpenPostgres]:
    """Brokers behind pgbouncer, notified past it."""
    async with postgres_brokers(Config(url=pooled, listen_url=url, poll_interval=20)) as open_one:
        yield open_one


def messages(count: int, prefix: str = "") -> list[Outgoing]:
    return [Outgoing("pooled", f"{prefix}{i}", b"body") for i in range(count)]


@asynccontextmanager
async def consuming(broker: PostgresBroker, **options: Any) -> AsyncIterator[PostgresConsumer]:
    info = WorkerInfo(f"w-{time.monotonic_ns()}", "host", 1, ("pooled",), 1, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("pooled",), **options))
    await consumer.start()
    yield consumer
    await consumer.stop()


async def test_everything_works_in_transaction_mode(open_pooled: OpenPostgres) -> None:
    broker = open_pooled()
    async with consuming(broker) as consumer:
        for n in range(3):
            await broker.put(messages(100, f"{n}-"))
            taken = await consumer.take(100, 5)
            assert len(taken) == 100
            assert await asyncio.to_thread(consumer.renew, taken) == []
            outcomes = [Outcome(d, result=b"result", result_ttl=60) for d in taken]
            assert await consumer.settle(outcomes) == []
            assert await broker.result("pooled", f"{n}-0", 0) == b"result"
        assert await broker.lead("name", "holder", 10)
        await broker.set_value("pooled", "kind", "name", b"value")
        assert await broker.value("pooled", "kind", "name") == b"value"


async def test_many_at_once_share_few_connections_to_the_server(
    open_pooled: OpenPostgres, url: str
) -> None:
    brokers = [open_pooled() for _ in range(10)]
    await brokers[0].put([])
    await asyncio.gather(*(b.put(messages(20, f"{n}-")) for n, b in enumerate(brokers)))
    assert connections_to_server(url) <= 5
    async with consuming(brokers[0]) as consumer:
        taken = await consumer.take(500, 5)
        assert len(taken) == 200
        assert await consumer.settle([Outcome(delivery) for delivery in taken]) == []


async def test_an_idle_worker_is_woken_past_pgbouncer(open_pooled: OpenPostgres) -> None:
    broker, other = open_pooled(), open_pooled()
    await other.put([])
    async with consuming(broker) as consumer, asyncio.timeout(15):  # it looks itself after 20 s
        for n in range(3):
            waiting = asyncio.create_task(consumer.take(1, 60))
            await asyncio.wait([waiting], timeout=0.5)
            await other.put(messages(1, f"woken-{n}-"))
            [delivery] = await waiting
            await consumer.settle([Outcome(delivery)])


async def test_a_direct_connection_is_known_to_lead_to_the_same_database(
    open_pooled: OpenPostgres, url: str
) -> None:
    broker, question = open_pooled(), open_pooled().whereabouts()
    await broker.put([])
    connection = await asyncpg.connect(url)
    try:
        sql = question.in_style("numeric_dollar")
        for _ in range(2):  # the first may find that there is no schema yet
            answer = await broker.is_here(await connection.fetch(sql, *question.parameters))
        assert answer is True
    finally:
        await connection.close()


async def test_without_another_url_a_worker_finds_work_when_it_looks(pooled: str) -> None:
    async with postgres_brokers(Config(url=pooled, poll_interval=1)) as open_one:
        broker, other = open_one(), open_one()
        async with consuming(broker) as consumer:
            waiting = asyncio.create_task(consumer.take(1, 60))
            await asyncio.wait([waiting], timeout=0.5)
            await other.put(messages(1, "found"))
            [delivery] = await asyncio.wait_for(waiting, 30)
            await consumer.settle([Outcome(delivery)])
        findings = [f for f in await broker.check() if f.level == "warning"]
        assert any("listen_url" in finding.advice for finding in findings)


async def test_a_pool_of_the_server_that_is_exhausted_is_waited_for(url: str) -> None:
    with pgbouncer(url, pool_size=1) as pooled:
        async with postgres_brokers(Config(url=pooled, listen_url=url)) as open_one:
            brokers = [open_one() for _ in range(5)]
            await brokers[0].put([])
            await asyncio.gather(*(b.put(messages(10, f"one-{n}-")) for n, b in enumerate(brokers)))
            assert [stats.waiting for stats in await brokers[0].stats()] == [50]
            await brokers[0].purge("pooled")
