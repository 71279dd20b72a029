"""Putting and taking: order, priority, idempotence, bulk, delays."""

from __future__ import annotations

import asyncio
import time

import pytest

from asynctasq.brokers import Broker, Consumer, Outcome, Outgoing

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


class SendingTests(BrokerFixtures):
    """What goes in comes out, in order and once."""

    async def test_messages_are_taken_in_the_order_they_were_put(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        await broker.put([message(queue, "later")])
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 4)
        assert ids(taken) == ["0000", "0001", "0002", "later"]
        assert [delivery.deliveries for delivery in taken] == [1, 1, 1, 1]
        assert {delivery.queue for delivery in taken} == {queue}

    @pytest.mark.parametrize(
        "body", [b"", b"\x00\xff\r\n", bytes(range(256)) * 4096], ids=["empty", "binary", "1 MiB"]
    )
    async def test_a_body_arrives_byte_for_byte(
        self, broker: Broker, queue: str, start_consumer: StartConsumer, body: bytes
    ) -> None:
        await broker.put([message(queue, body=body)])
        [delivery] = await take_all(await start_consumer(broker), 1)
        assert delivery.body == body

    async def test_a_take_gives_no_more_than_its_limit(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 5))
        consumer = await start_consumer(broker)
        assert ids(await consumer.take(2, 5)) == ["0000", "0001"]
        assert ids(await consumer.take(1, 5)) == ["0002"]

    async def test_one_take_gives_all_that_waits(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 100))
        consumer = await start_consumer(broker)
        assert len(await consumer.take(100, 5)) == 100

    async def test_a_message_of_an_earlier_queue_is_taken_first(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        high, low = f"{queue}-high", f"{queue}-low"
        await broker.put([message(low, "l1"), message(low, "l2"), message(high, "h1")])
        consumer = await start_consumer(broker, high, low)
        assert ids(await take_all(consumer, 2)) == ["h1", "l1"]
        await broker.put([message(high, "h2")])
        assert ids(await take_all(consumer, 2)) == ["h2", "l2"]

    async def test_a_consumer_takes_from_its_queues_only(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(f"{queue}-elsewhere")])
        assert await nothing_comes(await start_consumer(broker))

    async def test_putting_an_id_again_changes_nothing(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"first"), message(queue, "a", b"in one call")])
        await broker.put([message(queue, "a", b"again"), message(queue, "b")])
        consumer = await start_consumer(broker)
        first, second = await take_all(consumer, 2)
        assert (first.id, first.body, second.id) == ("a", b"first", "b")
        await broker.put([message(queue, "a", b"while running")])
        assert await nothing_comes(consumer)

    async def test_an_id_that_was_done_may_be_used_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        for _ in range(2):
            await broker.put([message(queue, "a")])
            [delivery] = await take_all(consumer, 1)
            assert await consumer.settle([Outcome(delivery)]) == []

    async def test_the_same_id_in_two_queues_is_two_messages(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        one, two = f"{queue}-1", f"{queue}-2"
        await broker.put([message(one, "a"), message(two, "a")])
        taken = await take_all(await start_consumer(broker, one, two), 2)
        assert [(delivery.queue, delivery.id) for delivery in taken] == [(one, "a"), (two, "a")]

    async def test_putting_nothing_is_harmless(self, broker: Broker) -> None:
        await broker.put([])

    async def test_thousands_put_at_once_arrive_once_each_and_in_order(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        sent = numbered(queue, self.bulk)
        await broker.put(sent)
        consumer = await start_consumer(broker)
        assert ids(await take_all(consumer, self.bulk)) == [out.id for out in sent]
        assert await nothing_comes(consumer)

    async def test_concurrent_puts_all_arrive(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        sent = numbered(queue, 100)
        await asyncio.gather(
            *(broker.put([out]) for out in sent[::2]),
            *(other_broker.put([out]) for out in sent[1::2]),
        )
        taken = await take_all(await start_consumer(broker), 100)
        assert sorted(ids(taken)) == [out.id for out in sent]

    async def test_two_consumers_never_get_the_same_message(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumers = [await start_consumer(broker), await start_consumer(other_broker)]
        await broker.put(numbered(queue, 300))
        assert await self._shared(consumers, 300) == [f"{i:04}" for i in range(300)]

    async def test_a_delayed_message_is_taken_when_it_is_due_with_nothing_else_happening(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        sent = message(queue, delay=0.5)
        assert sent.due is not None
        await broker.put([sent])
        consumer = await start_consumer(broker)
        [delivery] = await consumer.take(10, 20)
        assert sent.due - 0.01 <= time.time() < sent.due + 1
        assert (delivery.id, delivery.deliveries) == (sent.id, 1)

    async def test_a_delayed_message_put_by_another_broker_wakes_a_waiting_take_when_due(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        waiting = asyncio.ensure_future(consumer.take(10, 20))
        sent = message(queue, delay=0.5)
        assert sent.due is not None
        await other_broker.put([sent])
        assert ids(await waiting) == [sent.id]
        assert sent.due - 0.01 <= time.time() < sent.due + 1

    async def test_a_message_due_in_the_past_is_taken_at_once(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([Outgoing(queue, "a", b"", due=time.time() - 3600)])
        assert ids(await take_all(await start_consumer(broker), 1)) == ["a"]

    async def test_delayed_messages_are_taken_in_the_order_they_are_due(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.stats()  # connects first, so that neither is due before it is put
        await broker.put([message(queue, "b", delay=0.4), message(queue, "a", delay=0.2)])
        assert ids(await take_all(await start_consumer(broker), 2)) == ["a", "b"]

    async def test_a_due_message_is_taken_before_new_ones(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        if not self.due_goes_first:
            pytest.skip("this broker queues due messages behind the waiting ones")
        await broker.stats()  # connects first, so that the message is not due before it is put
        await broker.put([message(queue, "new"), message(queue, "due", delay=0.1)])

        async def due() -> bool:
            return await broker.state(queue, "due") == "waiting"

        assert await becomes(due)
        assert ids(await take_all(await start_consumer(broker), 2)) == ["due", "new"]

    async def test_two_consumers_never_get_the_same_delayed_message(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumers = [await start_consumer(broker), await start_consumer(other_broker)]
        due = time.time() + 0.4
        await broker.put([Outgoing(queue, f"{i:04}", b"", due) for i in range(200)])
        assert await self._shared(consumers, 200) == [f"{i:04}" for i in range(200)]
        assert all([await nothing_comes(consumer) for consumer in consumers])

    async def _shared(self, consumers: list[Consumer], count: int) -> list[str]:
        """The sorted ids of what the consumers get between them, taking at the same time."""
        taken: list[str] = []
        deadline = time.monotonic() + 30

        async def take_some(consumer: Consumer) -> None:
            while len(taken) < count and time.monotonic() < deadline:
                taken.extend(ids(await consumer.take(7, 0.2)))

        await asyncio.gather(*(take_some(consumer) for consumer in consumers))
        return sorted(taken)
