"""Pauses: a queue held back, and messages parked by consumers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from asynctasq.brokers import (
    Action,
    Broker,
    Delivery,
    LimitKey,
    Listing,
    Outcome,
    Pausing,
    Policy,
    RateKey,
    UniqueKey,
)

from .fixtures import (
    BrokerFixtures,
    StartConsumer,
    becomes,
    ids,
    message,
    nothing_comes,
    numbered,
    take_all,
)


def parked(delivery: Delivery, pause: str = "p") -> Outcome:
    """The outcome that parks."""
    return Outcome(delivery, Action.PARK, pause=pause)


class PausingTests(BrokerFixtures):
    """A pause holds messages back from the moment it begins, and loses none."""

    needs = "pauses"

    @pytest.fixture
    def pausing(self, other_broker: Broker) -> Pausing:
        """Another process that pauses."""
        assert isinstance(other_broker, Pausing)
        return other_broker

    async def test_a_paused_queue_delivers_nothing_and_takes_what_is_put(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        await pausing.pause(queue, "", b"")
        await broker.put([message(queue, "b"), message(queue, "c", delay=0.01)])
        consumer = await start_consumer(broker)
        assert await nothing_comes(consumer, 0.7)
        assert await broker.state(queue, "a") == "waiting"
        assert await pausing.resume(queue, "")
        assert sorted(ids(await take_all(consumer, 3))) == ["a", "b", "c"]

    async def test_a_consumer_that_waits_gets_nothing_that_is_put_after_the_pause(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        waiting = asyncio.ensure_future(consumer.take(10, 20))
        await asyncio.sleep(0.05)
        await pausing.pause(queue, "", b"")
        await broker.put([message(queue, "a")])
        done, _ = await asyncio.wait({waiting}, timeout=0.7)
        assert not done
        await pausing.resume(queue, "")
        assert ids(await waiting) == ["a"]

    async def test_a_paused_queue_holds_up_no_other(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker, queue, f"{queue}-2")
        await pausing.pause(queue, "", b"")
        await broker.put([message(queue, "a"), message(f"{queue}-2", "b")])
        assert ids(await take_all(consumer, 1)) == ["b"]
        assert await nothing_comes(consumer)

    async def test_what_a_consumer_has_taken_goes_on_during_a_pause(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        consumer = await start_consumer(broker)
        done, retried, released = await take_all(consumer, 3)
        await pausing.pause(queue, "", b"")
        outcomes = [
            Outcome(done),
            Outcome(retried, Action.RETRY),
            Outcome(released, Action.RELEASE),
        ]
        assert await consumer.settle(outcomes) == []
        assert await nothing_comes(consumer, 0.7)
        await pausing.resume(queue, "")
        assert sorted(ids(await take_all(consumer, 2))) == ["0001", "0002"]

    async def test_a_lease_runs_out_during_a_pause(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        silent = await start_consumer(broker, lease_seconds=self.lease_seconds)
        await take_all(silent, 1)
        await pausing.pause(queue, "", b"")
        other = await start_consumer(broker)
        assert await nothing_comes(other, 2 * self.lease_seconds)
        assert await becomes(other.idle)
        await pausing.resume(queue, "")
        [again] = await take_all(other, 1)
        assert (again.id, again.deliveries) == ("a", 2)

    async def test_what_a_pause_keeps_back_keeps_nobody_busy(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 2))
        consumer = await start_consumer(broker)
        [first, second] = await take_all(consumer, 2)
        await pausing.pause(queue, "", b"")
        assert not await consumer.idle()
        await consumer.settle([Outcome(first), Outcome(second, Action.RELEASE)])
        await broker.put([message(queue, "later", delay=60)])
        assert await becomes(consumer.idle)
        await pausing.resume(queue, "")
        assert not await consumer.idle()

    async def test_pauses_are_kept_by_queue_and_name(
        self, broker: Broker, pausing: Pausing, queue: str
    ) -> None:
        assert isinstance(broker, Pausing)
        assert await broker.pauses(queue) == {}
        await pausing.pause(queue, "", b"1")
        await pausing.pause(queue, "ö {}:*", b"\x00\xff")
        await pausing.pause(f"{queue}-2", "p", b"3")
        assert dict(await broker.pauses(queue)) == {"": b"1", "ö {}:*": b"\x00\xff"}
        await pausing.pause(queue, "", b"2")
        assert (await broker.pauses(queue))[""] == b"2"
        assert await broker.resume(queue, "")
        assert not await broker.resume(queue, "")
        assert list(await broker.pauses(queue)) == ["ö {}:*"]
        assert queue in [stats.name for stats in await broker.stats()]

    async def test_deliveries_carry_the_pauses_of_their_queue(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker, queue, f"{queue}-2")
        await broker.put([message(queue, "a")])
        [delivery] = await take_all(consumer, 1)
        assert not delivery.pauses
        await pausing.pause(queue, "p", b"1")
        await broker.put([message(queue, "b")])
        [delivery] = await take_all(consumer, 1)
        assert (delivery.id, delivery.pauses) == ("b", {"p": b"1"})
        await pausing.pause(queue, "q", b"2")
        await consumer.settle([Outcome(delivery, Action.RELEASE)])
        [delivery] = await take_all(consumer, 1)
        assert delivery.pauses == {"p": b"1", "q": b"2"}
        await broker.put([message(f"{queue}-2", "c")])
        [delivery] = await take_all(consumer, 1)
        assert (delivery.id, delivery.pauses) == ("c", None)
        await pausing.resume(queue, "p")
        await pausing.resume(queue, "q")
        await broker.put([message(queue, "d")])
        [delivery] = await take_all(consumer, 1)
        assert not delivery.pauses

    async def test_a_consumer_that_waits_while_a_pause_begins_learns_of_it(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        waiting = asyncio.ensure_future(consumer.take(10, 20))
        await asyncio.sleep(0.05)
        await pausing.pause(queue, "p", b"1")
        await broker.put([message(queue, "a")])
        [delivery] = await waiting
        assert delivery.pauses == {"p": b"1"}

    async def test_what_is_parked_waits_for_the_end_of_its_pause(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"body")])
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        assert await consumer.settle([parked(delivery)]) == []
        assert await broker.state(queue, "a") == "delayed"
        assert await nothing_comes(consumer, 0.7)
        assert await consumer.idle()
        waiting = asyncio.ensure_future(consumer.take(10, 20))
        await pausing.resume(queue, "p")
        [again] = await waiting
        assert (again.id, again.body, again.deliveries) == ("a", b"body", 1)

    async def test_what_is_parked_for_a_pause_that_is_over_is_released(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        await pausing.pause(queue, "p", b"")
        await pausing.pause(queue, "q", b"")
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await pausing.resume(queue, "p")
        await consumer.settle([parked(delivery)])
        [again] = await take_all(consumer, 1)
        assert (again.id, again.deliveries) == ("a", 1)

    async def test_each_pause_wakes_what_is_parked_for_it(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a"), message(queue, "b")])
        for name in ("p", "q", ""):
            await pausing.pause(queue, name, b"")
        await pausing.resume(queue, "")
        consumer = await start_consumer(broker)
        for delivery in await take_all(consumer, 2):
            await consumer.settle([parked(delivery, "p" if delivery.id == "a" else "q")])
        assert await pausing.resume(queue, "q")
        assert ids(await take_all(consumer, 1)) == ["b"]
        assert await nothing_comes(consumer)
        assert await pausing.resume(queue, "p")
        assert ids(await take_all(consumer, 1)) == ["a"]

    async def test_parking_the_same_again_changes_nothing(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        outcome = parked(delivery)
        await consumer.settle([outcome])
        await consumer.settle([outcome])
        await pausing.resume(queue, "p")
        [again] = await take_all(consumer, 1)
        assert await consumer.settle([outcome]) == [outcome]
        assert again.deliveries == 1
        assert await broker.state(queue, "a") == "running"

    async def test_what_is_parked_can_be_cancelled_and_purged(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        await consumer.settle([parked(d) for d in await take_all(consumer, 3)])
        [stats] = [s for s in await broker.stats() if s.name == queue]
        assert (stats.waiting, stats.running, stats.delayed) == (0, 0, 3)
        assert await broker.cancel(queue, "0001", None, 0)
        assert await broker.purge(queue) == 2
        await pausing.resume(queue, "p")
        assert await nothing_comes(consumer)
        assert await broker.state(queue, "0000") is None

    async def test_what_is_parked_is_listed_without_a_time(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        self.need("lists")
        assert isinstance(broker, Listing)
        await pausing.pause(queue, "p", b"")
        await broker.put(numbered(queue, 3))
        consumer = await start_consumer(broker)
        await consumer.settle([parked(d) for d in await take_all(consumer, 2)])
        [waiting] = (await broker.held(queue, "waiting")).messages
        assert waiting.id == "0002"
        delayed = (await broker.held(queue, "delayed")).messages
        assert [(m.id, m.due) for m in delayed] == [("0000", None), ("0001", None)]

    async def test_hundreds_are_parked_and_go_on_in_their_order(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 400))
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        for _ in range(4):
            await consumer.settle([parked(d) for d in await take_all(consumer, 100)])
        assert await nothing_comes(consumer)
        await pausing.resume(queue, "p")
        again = await take_all(consumer, 400)
        assert ids(again) == [f"{i:04}" for i in range(400)]
        assert {delivery.deliveries for delivery in again} == {1}

    async def test_what_is_parked_keeps_no_place_of_its_limit_and_its_order(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        self.need("polices")
        serial = Policy(limit=LimitKey("k", 1))
        await broker.put([replace(m, policy=serial) for m in numbered(queue, 3)])
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        for _ in range(3):
            [delivery] = await take_all(consumer, 1)
            await consumer.settle([parked(delivery)])
        await broker.put([replace(message(queue, "other"), policy=serial)])
        [other] = await take_all(consumer, 1)
        assert other.id == "other"
        await broker.put([replace(message(queue, "later"), policy=serial)])
        await consumer.settle([Outcome(other, Action.RETRY, delay=0.2)])
        await pausing.resume(queue, "p")
        for expected in ("0000", "0001", "0002", "later"):
            [delivery] = await consumer.take(5, 20)
            assert (delivery.id, delivery.deliveries) == (expected, 1)
            await consumer.settle([Outcome(delivery)])

    async def test_what_is_parked_uses_up_nothing_of_its_rate(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        self.need("polices")
        hourly = Policy(rate=RateKey("k", 3600.0))
        await broker.put([replace(m, policy=hourly) for m in numbered(queue, 3)])
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        for _ in range(2):
            [delivery] = await take_all(consumer, 1)
            await consumer.settle([parked(delivery)])
        [third] = await take_all(consumer, 1)
        assert third.id == "0002"
        await consumer.settle([Outcome(third)])
        await pausing.resume(queue, "p")
        assert await nothing_comes(consumer)  # the third has used up the hour

    async def test_what_is_parked_has_its_unique_key_again(
        self, broker: Broker, pausing: Pausing, queue: str, start_consumer: StartConsumer
    ) -> None:
        self.need("polices")
        key = Policy(unique=UniqueKey("k", "started", replaces=True))
        await broker.put([replace(message(queue, "a", b"1"), policy=key)])
        await pausing.pause(queue, "p", b"")
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([parked(delivery)])
        assert await broker.put([replace(message(queue, "b", b"2"), policy=key)]) == {"b": "a"}
        assert await broker.put([replace(message(queue, "a", b"2"), policy=key)]) is None
        [delivery] = await take_all(consumer, 1)
        assert (delivery.id, delivery.body) == ("a", b"2")
        await consumer.settle([parked(delivery)])
        await pausing.resume(queue, "p")
        assert ids(await take_all(consumer, 1)) == ["a"]
        assert await broker.put([replace(message(queue, "b"), policy=key)]) is None
