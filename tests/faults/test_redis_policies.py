"""Policies on Redis under all that may happen to messages, in any order, at the same time."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from asynctasq import RedisConfig
from asynctasq.brokers import (
    Action,
    Consumer,
    ConsumerOptions,
    Delivery,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    RateKey,
    UniqueKey,
    WorkerInfo,
)
from asynctasq.brokers.parking import pause_number
from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.brokers.redis.keys import Keys
from asynctasq.brokers.redis.scripts import RESUME, with_source

QUEUES = ("one", "two")
MOST = {"a": 1, "b": 2, "c": 5}
ENDS = (Action.DONE, Action.DEAD)
ACTIONS = (*ENDS, Action.DONE, Action.RETRY, Action.POSTPONE, Action.RELEASE)


class Traffic:
    """Three consumers that put, take, settle and cancel at random, and then empty the queues.

    Attributes:
        live: Messages that were put and have not ended.
        running: How many of each queue and limit are held, never more than there may be.
    """

    def __init__(self, broker: RedisBroker, seed: int) -> None:
        self.live: dict[str, Outgoing] = {}
        self.running: Counter[tuple[str, str]] = Counter()
        self.put = 0
        self._broker = broker
        self._random = random.Random(seed)
        self._emptying = time.monotonic() + 3

    async def run(self) -> None:
        """Until nothing is left."""
        consumers = [await self._consumer() for _ in range(3)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(self._work(consumer) for consumer in consumers))
        for queue in QUEUES:
            await self._broker.purge_dead(queue)
        assert await consumers[0].idle()
        for consumer in consumers:
            await consumer.stop()

    async def _consumer(self) -> Consumer:
        info = WorkerInfo(uuid4().hex, "host", 1, QUEUES, 10, time.time())
        consumer = self._broker.consumer(ConsumerOptions(info, QUEUES))
        await consumer.start()
        return consumer

    async def _work(self, consumer: Consumer) -> None:
        while self.live or time.monotonic() < self._emptying:
            is_emptying = time.monotonic() > self._emptying
            if not is_emptying:
                await self._put_some()
                await self._cancel_one()
            taken = await consumer.take(self._random.randint(1, 8), 0.05)
            for delivery in taken:
                self._begin(delivery)
            await asyncio.sleep(0)
            assert await consumer.settle([self._end(d, is_emptying) for d in taken]) == []

    async def _put_some(self) -> None:
        messages = [self._message() for _ in range(self._random.randint(0, 4))]
        self.live |= {message.id: message for message in messages}
        for message_id in await self._broker.put(messages) or ():
            del self.live[message_id]

    async def _cancel_one(self) -> None:
        if self.live and self._random.random() < 0.1:
            message = self._random.choice(list(self.live.values()))
            if await self._broker.cancel(message.queue, message.id, None, 0):
                del self.live[message.id]

    def _message(self) -> Outgoing:
        chance, choice = self._random.random, self._random.choice
        limit, name = choice("abc"), f"{self.put}"
        self.put += 1
        policy = Policy(
            UniqueKey(choice("uv"), choice(("started", "done"))) if chance() < 0.1 else None,
            LimitKey(limit, MOST[limit]) if chance() < 0.5 else None,
            RateKey(choice("rs"), 0.005, 3) if chance() < 0.2 else None,
        )
        due = time.time() + chance() / 2 if chance() < 0.2 else None
        has_policy = policy != Policy()
        priority = choice((0, 0, 0, 1, -5))
        queue = choice(QUEUES)
        return Outgoing(queue, name, b"", due, priority, policy if has_policy else None)

    def _begin(self, delivery: Delivery) -> None:
        policy = self.live[delivery.id].policy
        if policy and policy.limit:
            self.running[delivery.queue, policy.limit.key] += 1
            assert self.running[delivery.queue, policy.limit.key] <= policy.limit.most

    def _end(self, delivery: Delivery, is_emptying: bool) -> Outcome:
        policy = self.live[delivery.id].policy
        if policy and policy.limit:
            self.running[delivery.queue, policy.limit.key] -= 1
        action = Action.DONE if is_emptying else self._random.choice(ACTIONS)
        if action in ENDS:
            del self.live[delivery.id]
        return Outcome(delivery, action, delay=self._random.choice((0, 0.05, 0.2)))


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_no_limit_passed_and_nothing_left_behind(
    start_redis: Any, seed: int
) -> None:
    server = start_redis()
    broker = RedisBroker(RedisConfig(url=server.url))
    traffic = Traffic(broker, seed)
    await traffic.run()
    assert traffic.put > 100
    await broker.close()
    with server.client() as client:
        left = {
            name for name in client.scan_iter("asynctasq:{[ot]*") if client.type(name) != "none"
        }
        names = {str(name).rpartition(":")[2] for name in left}
        # When rates may be forgotten, and the last serial.
        assert names <= {"stream", "admitted", "timers", "rates", "look", "passed"}
        for queue in QUEUES:
            assert client.xlen(f"asynctasq:{{{queue}}}:stream") == 0
            assert client.xlen(f"asynctasq:{{{queue}}}:admitted") == 0


async def test_a_put_with_a_policy_wakes_a_consumer_that_waits(start_redis: Any) -> None:
    broker = RedisBroker(RedisConfig(url=start_redis().url))
    info = WorkerInfo(uuid4().hex, "host", 1, QUEUES, 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, QUEUES))
    await consumer.start()
    late = 0
    for number in range(20):
        waiting = asyncio.create_task(consumer.take(1, 10))
        await asyncio.sleep(0.01)  # for it to wait; it may as well come later
        sent = time.monotonic()
        await broker.put([Outgoing("two", f"{number}", b"", priority=number % 2 - 1 or 1)])
        [delivery] = await waiting
        late += time.monotonic() - sent > 0.2
        await consumer.settle([Outcome(delivery)])
    # Looks for what time brings, twice a second, would be later than that most times.
    assert late < 10
    await consumer.stop()
    await broker.close()


async def test_sweeps_finish_what_a_resume_that_was_killed_has_begun(start_redis: Any) -> None:
    server = start_redis()
    broker = RedisBroker(RedisConfig(url=server.url))
    info = WorkerInfo(uuid4().hex, "host", 1, QUEUES, 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, QUEUES))
    await consumer.start()
    await broker.pause("one", "a pause", b"")
    await broker.put([Outgoing("one", f"{number}", b"") for number in range(5)])
    taken = [await _take(consumer) for _ in range(5)]
    await consumer.settle([Outcome(d, Action.PARK, pause="a pause") for d in taken])
    keys = Keys("asynctasq").of("one")
    first_step = with_source(RESUME(keys[:3], "a pause", pause_number("a pause"), 2))
    with server.client() as client:
        assert client.execute_command(*first_step) == [1, 2]
    assert [(await _take(consumer)).id for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert not await broker.resume("one", "a pause")
    await consumer.stop()
    await broker.close()


async def test_a_pause_that_begins_anew_keeps_what_a_killed_resume_has_left(
    start_redis: Any,
) -> None:
    server = start_redis()
    broker = RedisBroker(RedisConfig(url=server.url))
    info = WorkerInfo(uuid4().hex, "host", 1, QUEUES, 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, QUEUES))
    await consumer.start()
    await broker.pause("one", "a pause", b"")
    await broker.put([Outgoing("one", f"{number}", b"") for number in range(3)])
    for _ in range(3):
        taken = await _take(consumer)
        await consumer.settle([Outcome(taken, Action.PARK, pause="a pause")])
    keys = Keys("asynctasq").of("one")
    first_step = with_source(RESUME(keys[:3], "a pause", pause_number("a pause"), 1))
    with server.client() as client:
        client.execute_command(*first_step)
    await broker.pause("one", "a pause", b"")
    [woken] = [await _take(consumer)]
    await consumer.settle([Outcome(woken, Action.PARK, pause="a pause")])
    assert await consumer.take(1, 0.7) == []
    assert await broker.resume("one", "a pause")
    assert len([await _take(consumer) for _ in range(3)]) == 3
    await consumer.stop()
    await broker.close()


async def _take(consumer: Consumer) -> Delivery:
    async with asyncio.timeout(10):
        while not (taken := await consumer.take(1, 1)):
            pass
    return taken[0]
