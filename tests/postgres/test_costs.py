"""What the PostgreSQL broker costs: statements, and no work that grows with what waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from asynctasq.brokers import Action, ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq_postgres import Config
from asynctasq_postgres.broker import PostgresBroker
from asynctasq_postgres.consumer import PostgresConsumer

from .brokers import OpenPostgres, postgres_brokers
from .counting import counting


def messages(count: int, queue: str = "default", prefix: str = "") -> list[Outgoing]:
    return [Outgoing(queue, f"{prefix}{i}", b"body") for i in range(count)]


@asynccontextmanager
async def consuming(broker: PostgresBroker, queue: str) -> AsyncIterator[PostgresConsumer]:
    info = WorkerInfo(f"worker-{time.monotonic_ns()}", "host", 1, (queue,), 1, time.time())
    consumer = broker.consumer(ConsumerOptions(info, (queue,)))
    await consumer.start()
    yield consumer
    await consumer.stop()


async def test_an_idle_worker_makes_no_more_than_two_statements_a_second(url: str) -> None:
    async with (
        counting(url) as server,
        postgres_brokers(Config(url=server.url)) as open_one,
        consuming(open_one(), "idle") as consumer,
    ):
        # All connections are open then, and all statements prepared.
        assert await consumer.take(1, 4) == []
        assert await asyncio.to_thread(consumer.renew, []) == []
        before, started = server.statements, time.monotonic()
        while time.monotonic() - started < 8:
            assert await consumer.take(1, 2) == []  # as a worker does
            assert await asyncio.to_thread(consumer.renew, []) == []
        seconds = time.monotonic() - started
        assert 0 < server.statements - before <= 2 * seconds


async def test_a_hundred_are_put_taken_and_settled_by_a_statement_each(url: str) -> None:
    async with (
        counting(url) as server,
        postgres_brokers(Config(url=server.url)) as open_one,
        consuming(broker := open_one(), "few") as consumer,
    ):

        async def drain(name: str) -> None:
            await broker.put(messages(100, "few", name))
            taken = await consumer.take(100, 5)
            assert len(taken) == 100
            await consumer.settle([Outcome(delivery) for delivery in taken])

        for n in range(5):  # all connections are open then, and all statements prepared
            await drain(f"first {n}-")
        before = server.statements
        for n in range(20):
            await drain(f"{n}-")
        # One each, and one that wakes who waits.
        assert server.statements - before <= 20 * (3 + 1)


@pytest.mark.parametrize("broker_is_other", [False, True])
async def test_a_waiting_worker_is_woken_by_a_notification_and_not_by_its_next_look(
    url: str, broker_is_other: bool
) -> None:
    config = Config(url=url, poll_interval=30)
    async with postgres_brokers(config) as open_one:
        broker = open_one()
        other = open_one() if broker_is_other else broker
        await other.put([])
        async with consuming(broker, "woken") as consumer:
            for i in range(5):
                waiting = asyncio.create_task(consumer.take(1, 20))
                await asyncio.wait([waiting], timeout=0.3)
                await other.put([Outgoing("woken", f"{i}", b"")])
                async with asyncio.timeout(2):
                    [delivery] = await waiting
                await consumer.settle([Outcome(delivery)])


async def test_nothing_is_notified_while_nobody_waits(broker: PostgresBroker, url: str) -> None:
    await broker.put([])
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listener:
        await broker.put(messages(1, "unheard", "first"))
        await listener.execute("LISTEN asynctasq")
        for i in range(20):
            await broker.put(messages(1, "unheard", f"{i}-"))
        await broker.close()
        heard = [n.payload async for n in listener.notifies(timeout=0.5)]
    assert [payload for payload in heard if payload == "q:unheard"] == []


async def test_a_claim_beside_an_open_transaction_passes_what_is_gone_now_and_then_only(
    open_postgres: OpenPostgres, url: str
) -> None:
    broker = open_postgres()
    await broker.put(messages(1, "held"))
    with psycopg.connect(url) as open_transaction:
        open_transaction.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        open_transaction.execute("SELECT")
        async with consuming(broker, "held") as consumer:
            for n in range(20):
                await broker.put(messages(1000, "held", f"{n}-"))
            ran = 0
            while taken := await consumer.take(500, 0):
                assert await consumer.settle([Outcome(delivery) for delivery in taken]) == []
                ran += len(taken)
            assert ran == 20_001
            await broker.put(messages(200, "held", "last-"))
            times = []
            for _ in range(100):
                started = time.perf_counter()
                taken = await consumer.take(1, 1)
                times.append(time.perf_counter() - started)
                await consumer.settle([Outcome(delivery, Action.DEAD) for delivery in taken])
            assert await broker.purge("held") == 100
    # Half of them have not walked past twenty thousand dead rows.
    full = max(times[:5])
    assert sorted(times)[50] < max(full, 0.02)


async def test_a_hundred_thousand_that_wait_make_a_claim_no_slower(
    open_postgres: OpenPostgres,
) -> None:
    broker = open_postgres()
    medians = []
    async with consuming(broker, "many") as consumer:
        for count, prefix in ((1000, "few"), (100_000, "many")):
            for n in range(0, count, 5000):
                await broker.put(messages(min(count, 5000), "many", f"{prefix}-{n}-"))
            times = []
            for _ in range(30):
                started = time.perf_counter()
                taken = await consumer.take(10, 1)
                times.append(time.perf_counter() - started)
                assert len(taken) == 10
                await consumer.settle([Outcome(delivery) for delivery in taken])
            medians.append(sorted(times)[15])
    await broker.purge("many")
    # Other load on the machine moves it by far more than what is looked for: a walk through all.
    assert medians[1] < 5 * medians[0] + 0.01
