"""Rates by a clock that tests move: no window ever sees more than GCRA allows, and none is late."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asynctasq import SQLiteConfig
from asynctasq.brokers import (
    Broker,
    Consumer,
    ConsumerOptions,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    RateKey,
    WorkerInfo,
)
from asynctasq.brokers.memory.broker import MemoryBroker, MemoryStore
from asynctasq.brokers.sqlite.broker import SQLiteBroker


class Clock:
    now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.time)
    return clock


@pytest.fixture(params=["memory", "sqlite"])
def broker(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker(MemoryStore(clock=clock.time))
    else:
        yield SQLiteBroker(SQLiteConfig(path=str(tmp_path / "queue.db")))


async def started(broker: Broker) -> Consumer:
    worker = WorkerInfo("w", "host", 1, ("default",), 1, 0.0)
    consumer = broker.consumer(ConsumerOptions(worker, ("default",)))
    await consumer.start()
    return consumer


async def finish(consumer: Consumer, room: int) -> int:
    taken = await consumer.take(room, 0)
    await consumer.settle([Outcome(delivery) for delivery in taken])
    return len(taken)


def rated(count: int, rate: RateKey) -> list[Outgoing]:
    return [Outgoing("default", f"{i}", b"", policy=Policy(rate=rate)) for i in range(count)]


@pytest.mark.parametrize(("interval", "burst"), [(1.0, 1), (0.25, 4), (3.0, 20)])
async def test_no_window_sees_more_than_its_burst_and_its_share_and_nothing_is_late(
    broker: Broker, clock: Clock, interval: float, burst: int
) -> None:
    chance = random.Random(7)
    consumer = await started(broker)
    times: list[float] = []
    await broker.put(rated(120, RateKey("key", interval, burst)))
    bucket, since = float(burst), clock.now  # the same in other words: it fills by time
    while len(times) < 120:
        bucket = min(float(burst), bucket + (clock.now - since) / interval)
        since = clock.now
        room = chance.choice([1, 2, 5, 50])
        expected = min(room, int(bucket + 1e-6), 120 - len(times))
        taken = await finish(consumer, room)
        assert taken == expected
        bucket -= taken
        times += [clock.now] * taken
        clock.now += chance.choice([0.13, 0.57, 1.03, 4.1]) * interval
    for i, start in enumerate(times):
        for j in range(i + burst, len(times)):
            assert times[j] - start >= (j - i - burst + 1) * interval - 1e-3
    await consumer.stop()
    await broker.close()


async def test_messages_are_judged_by_their_own_numbers(broker: Broker, clock: Clock) -> None:
    consumer = await started(broker)
    await broker.put(
        [
            Outgoing("default", f"{i}", b"", policy=Policy(limit=LimitKey("key", 1 + i % 2)))
            for i in range(6)
        ]
    )
    running = await consumer.take(10, 0)
    while running:
        assert len(running) <= 2
        await consumer.settle([Outcome(running.pop(0))])
        running += await consumer.take(10, 0)
    assert await consumer.idle()
    await consumer.stop()
    await broker.close()
