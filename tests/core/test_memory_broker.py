"""The memory broker keeps every promise of the broker protocol, with a clock that tests move."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest_asyncio
from asynctasq.brokers import Broker, ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq.brokers.memory.broker import MemoryBroker, MemoryStore
from asynctasq.testing import BrokerSuite, OpenBroker


class TestMemoryBroker(BrokerSuite):
    lists = True
    coordinates = True
    polices = True
    remembers = True
    pauses = True

    @pytest_asyncio.fixture
    async def open_broker(self) -> AsyncIterator[OpenBroker]:
        store = MemoryStore()

        def open_one() -> Broker:
            return MemoryBroker(store)

        yield open_one


def options(queue: str = "default", lease_seconds: float = 30) -> ConsumerOptions:
    return ConsumerOptions(WorkerInfo("w", "host", 1, (queue,), 1, 0.0), (queue,), lease_seconds)


async def test_a_moved_clock_makes_delayed_messages_due() -> None:
    now = 1000.0
    store = MemoryStore(clock=lambda: now)
    broker = MemoryBroker(store)
    consumer = broker.consumer(options())
    await broker.put([Outgoing("default", "a", b"", due=4600.0)])
    waiting = asyncio.ensure_future(consumer.take(1, 60))
    await asyncio.sleep(0)
    assert await broker.state("default", "a") == "delayed"
    now = 4600.0
    store.wake()
    assert [delivery.id for delivery in await waiting] == ["a"]


async def test_leases_follow_their_own_clock_and_not_the_wall_clock() -> None:
    now = lease_now = 1000.0
    store = MemoryStore(clock=lambda: now, lease_clock=lambda: lease_now)
    broker = MemoryBroker(store)
    consumer = broker.consumer(options())
    await consumer.start()
    await broker.put([Outgoing("default", "a", b"")])
    [delivery] = await consumer.take(1, 0)
    assert await broker.lead("name", "holder", 30)
    now += 3600
    assert await consumer.take(1, 0) == []
    assert await broker.state("default", "a") == "running"
    assert [worker.running for worker in await broker.workers()] == [1]
    assert not await broker.lead("name", "other", 30)
    lease_now += 31
    assert await broker.workers() == []
    [again] = await consumer.take(1, 0)
    assert (delivery.deliveries, again.deliveries) == (1, 2)
    assert await consumer.settle([Outcome(delivery)]) != []
    assert await broker.lead("name", "other", 30)


async def test_a_put_in_another_thread_wakes_a_take_of_this_loop() -> None:
    store = MemoryStore()
    consumer = MemoryBroker(store).consumer(options())
    waiting = asyncio.ensure_future(consumer.take(1, 60))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    put = MemoryBroker(store).put([Outgoing("default", "a", b"")])
    thread = threading.Thread(target=lambda: asyncio.run(put))
    thread.start()
    async with asyncio.timeout(5):
        [delivery] = await waiting
    thread.join()
    assert delivery.id == "a"


async def test_brokers_without_a_common_store_share_nothing() -> None:
    await MemoryBroker().put([Outgoing("default", "a", b"")])
    assert await MemoryBroker().stats() == []


async def test_expired_results_do_not_pile_up() -> None:
    now = 1000.0
    store = MemoryStore(clock=lambda: now)
    broker = MemoryBroker(store)
    for i in range(100):
        await broker.put([Outgoing("default", str(i), b"")])
        assert await broker.cancel("default", str(i), b"result", 10)
        now += 1
    assert await broker.result("default", "99", 0) == b"result"
    assert await broker.result("default", "80", 0) is None
    assert store.kept_results() <= 11


async def test_the_check_warns_that_messages_die_with_the_process() -> None:
    [finding] = await MemoryBroker().check()
    assert finding.level == "warning"
    assert "process" in finding.text
