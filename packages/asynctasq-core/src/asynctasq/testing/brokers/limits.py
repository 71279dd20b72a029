"""Limits: how many of a queue's messages with one key run at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from asynctasq.brokers import Action, Broker, Delivery, Outcome

from .fixtures import StartConsumer, ids, message, nothing_comes, take_all
from .policies import PolicedFixtures, limited, run_all


class LimitsTests(PolicedFixtures):
    """Never more than the limit, in order, and messages without the key do not wait."""

    needs = "polices"

    async def test_no_more_messages_of_a_key_are_delivered_than_its_limit(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}", most=2) for i in range(4)])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        first, second = await take_all(consumer, 2)
        assert ids([first, second]) == ["0", "1"]
        assert await nothing_comes(consumer)
        assert await nothing_comes(other)
        await consumer.settle([Outcome(second)])
        assert ids(await other.take(10, 5)) == ["2"]
        assert await nothing_comes(consumer)
        await consumer.settle([Outcome(first)])
        assert ids(await other.take(10, 5)) == ["3"]

    async def test_a_message_that_waits_in_a_line_is_waiting(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(3)])
        consumer = await start_consumer(broker)
        await take_all(consumer, 1)
        assert [await broker.state(queue, f"{i}") for i in range(3)] == [
            "running",
            "waiting",
            "waiting",
        ]
        [stats] = [s for s in await broker.stats() if s.name == queue]
        assert (stats.waiting, stats.running) == (2, 1)
        assert not await consumer.idle()

    async def test_messages_of_one_key_run_one_by_one_in_the_order_they_were_put(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        for i in range(0, 60, 3):
            await broker.put([limited(queue, f"{j:03}", key=f"row-{j % 3}") for j in (i, i + 1)])
            await other_broker.put([limited(queue, f"{i + 2:03}", key="row-2")])
        consumers = [await start_consumer(broker), await start_consumer(other_broker)]
        ran: list[str] = []

        async def work(name: int) -> None:
            consumer = consumers[name]
            while len(ran) < 60:
                taken = await consumer.take(2, 0.5)
                ran.extend(ids(taken))
                await asyncio.sleep(0)
                await consumer.settle([Outcome(delivery) for delivery in taken])

        async with asyncio.timeout(30):
            await asyncio.gather(work(0), work(1))
        for row in range(3):
            assert [i for i in ran if int(i) % 3 == row] == [f"{i:03}" for i in range(row, 60, 3)]

    async def test_a_settled_message_wakes_a_take_that_waits_for_the_next_of_its_line(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, "a"), limited(queue, "b")])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        [delivery] = await take_all(consumer, 1)
        waiting = asyncio.ensure_future(other.take(1, 20))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        await consumer.settle([Outcome(delivery)])
        async with asyncio.timeout(2):
            assert ids(await waiting) == ["b"]

    @pytest.mark.parametrize("action", [Action.DEAD, Action.RETRY, Action.POSTPONE])
    async def test_the_next_may_run_when_one_is_dead_or_put_off(
        self, broker: Broker, queue: str, start_consumer: StartConsumer, action: Action
    ) -> None:
        await broker.put([limited(queue, "a"), limited(queue, "b")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, action, delay=60)])
        assert ids(await consumer.take(10, 5)) == ["b"]
        assert await nothing_comes(consumer)

    async def test_a_released_message_goes_before_those_that_wait_in_its_line(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(3)])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.RELEASE)])
        assert ids(await other.take(10, 5)) == ["0"]
        assert await nothing_comes(consumer)

    async def test_a_crashed_holder_is_forgotten_with_its_lease_and_its_message_goes_first(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(3)])
        dying = await start_consumer(broker, lease_seconds=self.lease_seconds)
        [lost] = await take_all(dying, 1)
        consumer = await start_consumer(other_broker)
        [again] = await consumer.take(10, 20)
        assert (again.id, again.deliveries) == ("0", 2)
        assert await dying.settle([Outcome(lost)]) != []
        assert await nothing_comes(consumer)
        await consumer.settle([Outcome(again)])
        assert await run_all(consumer, 2) == ["1", "2"]

    async def test_the_messages_of_a_released_worker_go_first(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}", most=2) for i in range(4)])
        dead = await start_consumer(broker)
        await take_all(dead, 2)
        [worker] = [w.id for w in await broker.workers() if queue in w.queues]
        assert await other_broker.release_worker(worker, [queue]) == 2
        consumer = await start_consumer(other_broker)
        taken = await take_all(consumer, 2)
        assert sorted(ids(taken)) == ["0", "1"]
        assert await nothing_comes(consumer)

    async def test_messages_that_wait_in_a_line_can_be_cancelled(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(5)])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        for i in (1, 3):
            assert await broker.cancel(queue, f"{i}", None, 0)
        await consumer.settle([Outcome(delivery)])
        assert await run_all(consumer, 2) == ["2", "4"]
        assert await consumer.idle()

    async def test_cancelling_what_could_run_lets_the_next_run(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(3)])
        assert await broker.cancel(queue, "0", None, 0)
        assert ids(await (await start_consumer(broker)).take(10, 5)) == ["1"]

    async def test_a_purge_empties_the_lines_and_leaves_the_limit_to_what_runs(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(50)])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        assert await broker.purge(queue) == 49
        await broker.put([limited(queue, "new")])
        assert await nothing_comes(consumer)
        await consumer.settle([Outcome(delivery)])
        assert await run_all(consumer, 1) == ["new"]
        assert await consumer.idle()

    async def test_a_dead_letter_that_is_retried_stands_in_its_line(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, "a"), limited(queue, "b")])
        consumer = await start_consumer(broker)
        [a] = await take_all(consumer, 1)
        await consumer.settle([Outcome(a, Action.DEAD)])
        [b] = await take_all(consumer, 1)
        assert await broker.retry_dead(queue, [("a", b"again")]) == 1
        assert await nothing_comes(consumer)
        await consumer.settle([Outcome(b)])
        assert await run_all(consumer, 1) == ["a"]

    async def test_delayed_messages_join_their_line_when_they_are_due(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        await broker.put([limited(queue, "later", delay=1), limited(queue, "now")])
        [first] = await take_all(consumer, 1)
        assert first.id == "now"
        assert await nothing_comes(consumer, 1.3)
        await broker.put([limited(queue, "last")])
        await consumer.settle([Outcome(first)])
        assert await run_all(consumer, 2) == ["later", "last"]

    async def test_a_retried_message_stands_in_its_line_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, "a"), limited(queue, "b")])
        consumer = await start_consumer(broker)
        [a] = await take_all(consumer, 1)
        await consumer.settle([Outcome(a, Action.RETRY)])
        [first] = await take_all(consumer, 1)
        assert await nothing_comes(consumer)
        await consumer.settle([Outcome(first)])
        [second] = await take_all(consumer, 1)
        assert sorted((first.id, second.id)) == ["a", "b"]

    async def test_a_long_line_of_one_key_holds_up_no_other(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        hot = [limited(queue, f"hot-{i}", key="hot", most=2) for i in range(2 * self.bulk)]
        for i in range(0, len(hot), 1000):
            await broker.put(hot[i : i + 1000])
        await broker.put([limited(queue, "cold", key="cold"), message(queue, "plain")])
        consumer = await start_consumer(broker)
        taken: list[Delivery] = []
        started = time.monotonic()
        while not {"cold", "plain"} <= set(ids(taken)):
            taken += await consumer.take(10, 5)
            assert len(taken) <= 4
        assert time.monotonic() - started < 5
        assert sorted(ids(taken)) == ["cold", "hot-0", "hot-1", "plain"]

    async def test_a_blocked_line_costs_no_delivery(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"{i}") for i in range(3)])
        consumer = await start_consumer(broker)
        [first] = await take_all(consumer, 1)
        for _ in range(3):
            assert await nothing_comes(consumer, 0.05)
        await consumer.settle([Outcome(first)])
        [second] = await take_all(consumer, 1)
        assert (second.id, second.deliveries) == ("1", 1)

    async def test_many_consumers_keep_every_limit_and_lose_nothing(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        keys = {"a": 1, "b": 2, "c": 3}
        sent = [
            limited(queue, f"{key}-{i:03}", key, most)
            for i in range(60)
            for key, most in keys.items()
        ]
        await broker.put(sent)
        consumers = [await start_consumer(b) for b in (broker, other_broker) * 2]
        running: Counter[str] = Counter()
        ran: list[str] = []

        async def work(n: int) -> None:
            while len(ran) < len(sent):
                taken = await consumers[n].take(3, 0.3)
                for delivery in taken:
                    running[delivery.id[0]] += 1
                    assert running[delivery.id[0]] <= keys[delivery.id[0]]
                ran.extend(ids(taken))
                await asyncio.sleep(0)
                running.subtract(delivery.id[0] for delivery in taken)
                await consumers[n].settle([Outcome(delivery) for delivery in taken])

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(n) for n in range(4)))
        assert sorted(ran) == sorted(m.id for m in sent)

    async def test_limits_in_use_can_be_looked_at(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, f"s{i}", key="short") for i in range(2)])
        await broker.put([limited(queue, f"l{i}", key="long", most=2) for i in range(5)])
        consumer = await start_consumer(broker)
        await take_all(consumer, 3)
        long, short = await self.key(broker, queue, "long"), await self.key(broker, queue, "short")
        assert long is not None
        assert short is not None
        assert (long.kind, sorted(long.holders), long.waiting) == ("limit", ["l0", "l1"], 3)
        assert (short.kind, short.holders, short.waiting) == ("limit", ("s0",), 1)
