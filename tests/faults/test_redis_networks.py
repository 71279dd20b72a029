"""Whatever the network does to a connection is an outage, on both event loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import redis
import uvloop
from asynctasq import RedisConfig
from asynctasq.brokers import ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.errors import BrokerUnavailable
from asynctasq.sending.batching import Batcher

from ..servers import redis_url
from . import relays
from .relays import Relay, relay

Run = Callable[[Coroutine[Any, Any, Any]], Any]

#: How a connection may break.
BROKEN = [
    relays.reset,
    relays.closed,
    relays.half_closed,
    relays.cut,
    relays.cut_and_reset,
    relays.swallowed,
]
TIMEOUT = 0.5


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on one of the event loops."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture
def server() -> Iterator[tuple[Relay, str]]:
    """A relay in front of the server for tests, and a key prefix."""
    prefix = f"test-{uuid4().hex}"
    with redis.Redis.from_url(redis_url()) as client:
        with relay(int(client.connection_pool.connection_kwargs["port"])) as started:
            yield started, prefix
        for key in client.scan_iter(f"{prefix}*", count=1000):
            client.delete(key)


def config(server: tuple[Relay, str], **options: Any) -> RedisConfig:
    between, prefix = server
    url = f"redis://127.0.0.1:{between.port}/0"
    return RedisConfig(url=url, key_prefix=prefix, **{"timeout": TIMEOUT, **options})


def consumer_of(broker: RedisBroker, lease_seconds: float = 30.0) -> Any:
    info = WorkerInfo(f"w-{uuid4().hex[:8]}", "host", 1, ("q",), 10, time.time())
    return broker.consumer(ConsumerOptions(info, ("q",), lease_seconds))


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """As a worker does: again after an outage, and after nothing else."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda reply: reply.__name__)
def test_a_broken_connection_is_an_outage_to_every_operation(
    server: tuple[Relay, str], run: Run, broken: relays.Reply
) -> None:
    between, _ = server

    async def use() -> None:
        broker = RedisBroker(config(server))
        consumer = consumer_of(broker)
        await consumer.start()
        await broker.put([Outgoing("q", "a", b"body")])
        [held] = await consumer.take(1, 1)
        for call in (
            lambda: broker.put([Outgoing("q", "b", b"body")]),
            lambda: consumer.take(1, 0.1),
            lambda: consumer.settle([Outcome(held, result=b"x" * 100_000, result_ttl=60)]),
            lambda: asyncio.to_thread(consumer.renew, [held]),
            broker.stats,
        ):
            between.reply = broken
            with pytest.raises(BrokerUnavailable):
                await call()
            between.reply = relays.whole
            await insist(call)
        await consumer.stop()
        await broker.close()

    run(use())


def test_a_connection_that_was_reset_while_it_lay_idle_is_made_anew(
    server: tuple[Relay, str], run: Run
) -> None:
    between, _ = server

    async def use() -> None:
        broker = RedisBroker(config(server))
        consumer = consumer_of(broker)
        await consumer.start()
        for n in range(5):
            between.reset_all()
            await asyncio.sleep(0.01)  # the loop learns of it
            await broker.put([Outgoing("q", str(n), b"body")])
            between.reset_all()
            await asyncio.sleep(0.01)
            [taken] = await consumer.take(1, 1)
            await asyncio.to_thread(between.reset_all)
            assert await asyncio.to_thread(consumer.renew, [taken]) == []
            assert await consumer.settle([Outcome(taken)]) == []
        await consumer.stop()
        await broker.close()

    run(use())


def test_a_put_behind_a_stuck_one_takes_no_longer_than_its_own_time(
    server: tuple[Relay, str], run: Run
) -> None:
    between, _ = server
    timeout = 1.0

    async def put(batcher: Batcher, name: str) -> float:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await batcher.put([Outgoing("q", name, b"body")])
        return time.monotonic() - started

    async def use() -> list[float]:
        broker = RedisBroker(config(server, timeout=timeout))
        batcher = Batcher(broker)
        await batcher.put([Outgoing("q", "before", b"body")])
        between.is_stalled = True
        puts = []
        for n in range(8):
            puts.append(asyncio.create_task(put(batcher, str(n))))
            await asyncio.wait(puts, timeout=timeout / 5)
        taken = await asyncio.gather(*puts)
        between.is_stalled = False
        await insist(lambda: batcher.put([Outgoing("q", "after", b"body")]))
        await broker.close()
        return taken

    taken = run(use())
    assert max(taken) < 1.4 * timeout
    assert min(taken) > 0.6 * timeout


def test_answers_may_come_byte_by_byte(server: tuple[Relay, str], run: Run) -> None:
    between, _ = server
    between.reply = relays.byte_by_byte

    async def use() -> None:
        broker = RedisBroker(config(server, timeout=5.0))
        consumer = consumer_of(broker)
        await consumer.start()
        await broker.put([Outgoing("q", str(n), b"body") for n in range(20)])
        taken = await consumer.take(20, 1)
        assert [delivery.id for delivery in taken] == [str(n) for n in range(20)]
        assert await consumer.settle([Outcome(d, result=b"r", result_ttl=60) for d in taken]) == []
        assert await broker.result("q", "7", 1) == b"r"
        await consumer.stop()
        await broker.close()

    run(use())


def test_resets_under_load_are_outages_only(server: tuple[Relay, str], run: Run) -> None:
    between, _ = server
    count = 400

    async def send(broker: RedisBroker) -> None:
        for n in range(count):
            await insist(partial(broker.put, [Outgoing("q", str(n), b"x" * 2000)]))

    async def work(broker: RedisBroker, done: set[str]) -> None:
        consumer = consumer_of(broker, lease_seconds=1.0)
        await insist(consumer.start)
        while len(done) < count:
            taken = await insist(lambda: consumer.take(10, 0.2))
            outcomes = [Outcome(d, result=b"r" * 2000, result_ttl=60) for d in taken]
            await insist(partial(consumer.settle, outcomes))
            done.update(d.id for d in taken)
        await consumer.stop()

    async def reset_now_and_then(working: asyncio.Task[None]) -> None:
        while not working.done():
            await asyncio.sleep(0.03)
            between.reset_all()

    async def use() -> None:
        broker, done = RedisBroker(config(server, timeout=5.0)), set[str]()
        async with asyncio.timeout(60):
            working = asyncio.create_task(work(broker, done))
            await asyncio.gather(send(broker), working, reset_now_and_then(working))
        assert done == {str(n) for n in range(count)}
        await broker.close()

    run(use())
