"""Rates: how fast a queue's messages with one key are delivered at most."""

from __future__ import annotations

import asyncio
import time

from asynctasq.brokers import Action, Broker, LimitKey, Outcome, RateKey

from .fixtures import StartConsumer, ids, message, nothing_comes, take_all
from .policies import PolicedFixtures, limited, rated, run_all, with_policy

#: How much earlier than measured here the broker may have judged a delivery: it reads its clock
#: before it answers, perhaps in whole milliseconds.
_CLOCK_SECONDS = 0.005


class RatesTests(PolicedFixtures):
    """GCRA: a burst, then one per interval; nothing is late, and a backlog earns no extra burst."""

    needs = "polices"

    async def test_a_burst_is_delivered_and_then_one_each_interval(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        interval, burst, count = 0.2, 3, 8
        sent = [rated(queue, f"{i}", seconds=interval, burst=burst) for i in range(count)]
        consumers = [await start_consumer(broker), await start_consumer(other_broker)]
        taken: list[tuple[float, str]] = []

        async def work(n: int) -> None:
            while len(taken) < count:
                deliveries = await consumers[n].take(10, 0.5)
                now = time.monotonic()
                taken.extend((now, delivery.id) for delivery in deliveries)
                await consumers[n].settle([Outcome(delivery) for delivery in deliveries])

        started = time.monotonic()
        await broker.put(sent)
        async with asyncio.timeout(20):
            await asyncio.gather(work(0), work(1))
        times = sorted(at for at, _ in taken)
        assert sorted(i for _, i in taken) == [m.id for m in sent]
        for i, at in enumerate(times):
            assert at - started >= max(0, i - burst + 1) * interval - _CLOCK_SECONDS
            assert at - started < max(0, i - burst + 1) * interval + 1.0

    async def test_messages_of_a_rate_come_in_the_order_they_were_put(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, f"{i:02}", seconds=0.02, burst=2) for i in range(20)])
        assert await run_all(await start_consumer(broker), 20) == [f"{i:02}" for i in range(20)]

    async def test_no_more_are_counted_than_a_consumer_has_room_for(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, f"{i}", burst=4) for i in range(6)])
        consumer = await start_consumer(broker)
        taken = await consumer.take(1, 5)
        taken += await consumer.take(2, 5)
        taken += await consumer.take(10, 5)
        assert ids(taken) == ["0", "1", "2", "3"]
        assert await nothing_comes(consumer)

    async def test_a_backlog_saves_nothing_up_beyond_the_burst(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, f"{i}", seconds=0.05, burst=2) for i in range(20)])
        await asyncio.sleep(0.5)  # time must pass in which nobody takes
        consumer = await start_consumer(broker)
        assert len(await consumer.take(20, 5)) == 2

    async def test_a_long_line_of_one_rate_holds_up_no_other(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        hot = [rated(queue, f"hot-{i}", key="hot") for i in range(2 * self.bulk)]
        for i in range(0, len(hot), 1000):
            await broker.put(hot[i : i + 1000])
        await broker.put([rated(queue, "cold", key="cold"), message(queue, "plain")])
        consumer = await start_consumer(broker)
        assert ids(await take_all(consumer, 3, timeout_seconds=5)) == ["hot-0", "cold", "plain"]
        assert await nothing_comes(consumer)

    async def test_what_comes_back_from_a_release_or_a_lost_lease_is_not_counted_again(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, "a"), rated(queue, "b")])
        dying = await start_consumer(broker, lease_seconds=self.lease_seconds)
        [delivery] = await take_all(dying, 1)
        await dying.settle([Outcome(delivery, Action.RELEASE)])
        [delivery] = await take_all(dying, 1)
        assert delivery.id == "a"
        other = await start_consumer(other_broker)
        [again] = await other.take(10, 20)
        assert again.id == "a"
        await other.settle([Outcome(again)])
        assert await nothing_comes(other)

    async def test_a_retry_is_counted_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, "a", seconds=0.5)])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        started = time.monotonic()
        await consumer.settle([Outcome(delivery, Action.RETRY)])
        assert ids(await consumer.take(1, 20)) == ["a"]
        assert 0.4 < time.monotonic() - started < 2

    async def test_a_cancelled_head_of_a_line_hands_its_turn_on(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, f"{i}", seconds=0.3) for i in range(4)])
        consumer = await start_consumer(broker)
        assert ids(await take_all(consumer, 1)) == ["0"]
        assert await nothing_comes(consumer, 0.05)
        assert await broker.cancel(queue, "1", None, 0)
        assert await broker.cancel(queue, "2", None, 0)
        assert ids(await consumer.take(10, 20)) == ["3"]

    async def test_a_limit_and_a_rate_must_both_allow_it(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        both = [
            with_policy(
                message(queue, f"{i}"), limit=LimitKey("limit", 1), rate=RateKey("rate", 0.3, 2)
            )
            for i in range(4)
        ]
        await broker.put(both)
        consumer = await start_consumer(broker)
        started = time.monotonic()
        for i in range(4):
            [delivery] = await consumer.take(10, 20)
            assert delivery.id == f"{i}"
            assert time.monotonic() - started >= max(0, i - 1) * 0.3 - _CLOCK_SECONDS
            assert await nothing_comes(consumer, 0.02)
            await consumer.settle([Outcome(delivery)])
        assert time.monotonic() - started < 2

    async def test_a_message_that_waits_for_its_rate_holds_no_place_of_its_limit(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        slow = [
            with_policy(
                message(queue, f"slow-{i}"), limit=LimitKey("limit", 1), rate=RateKey("rate", 60)
            )
            for i in range(3)
        ]
        await broker.put([*slow, limited(queue, "quick", key="limit")])
        consumer = await start_consumer(broker)
        assert await run_all(consumer, 2) == ["slow-0", "quick"]
        assert await nothing_comes(consumer)

    async def test_limits_of_many_rates_and_rates_of_many_limits_stop_nobody_else(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(
            [
                with_policy(
                    message(queue, f"{i:02}"),
                    limit=LimitKey(f"limit-{i % 3}", 1),
                    rate=RateKey(f"rate-{i % 5}", 0.05, 2),
                )
                for i in range(45)
            ]
        )
        ran = await run_all(await start_consumer(broker), 45)
        for pair in range(15):
            assert [i for i in ran if int(i) % 15 == pair] == [
                f"{i:02}" for i in range(pair, 45, 15)
            ]

    async def test_rates_in_use_can_be_looked_at(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([rated(queue, f"{i}", seconds=60) for i in range(3)])
        consumer = await start_consumer(broker)
        before = time.time()
        await take_all(consumer, 1)
        key = await self.key(broker, queue, "key")
        assert key is not None
        assert key.free_at is not None
        assert (key.kind, key.holders, key.waiting) == ("rate", (), 2)
        assert before + 58 < key.free_at < time.time() + 62
