"""Priorities inside a queue."""

from __future__ import annotations

from asynctasq.brokers import Action, Broker, Outcome, Outgoing

from .fixtures import StartConsumer, becomes, ids, message, take_all
from .policies import PolicedFixtures, limited, run_all, unique


class PrioritiesTests(PolicedFixtures):
    """Strict between levels, first in first out within one."""

    needs = "polices"

    async def test_a_higher_priority_is_taken_first_and_equals_in_order(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        levels = [0, 5, -100, 5, 0, 100, -1, 100]
        await broker.put([prior(queue, f"{i}", level) for i, level in enumerate(levels)])
        taken = ids(await take_all(await start_consumer(broker), 8))
        assert taken == ["5", "7", "1", "3", "0", "4", "6", "2"]

    async def test_what_is_put_later_with_a_higher_priority_goes_before_what_waits(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, f"plain-{i}") for i in range(100)])
        await other_broker.put([prior(queue, "urgent", 1)])
        consumer = await start_consumer(broker)
        assert ids(await consumer.take(2, 5)) == ["urgent", "plain-0"]
        await other_broker.put([prior(queue, "more urgent", 100)])
        assert ids(await consumer.take(2, 5)) == ["more urgent", "plain-1"]

    async def test_a_delayed_message_has_its_priority_once_it_is_due(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        for i, level in enumerate((-1, 1)):
            delayed = message(queue, f"delayed-{i}", delay=0.1)
            delayed.priority = level
            await broker.put([delayed, message(queue, f"plain-{i}")])

        async def due() -> bool:
            return [await broker.state(queue, f"delayed-{i}") for i in (0, 1)] == ["waiting"] * 2

        assert await becomes(due)
        taken = ids(await take_all(await start_consumer(broker), 4))
        assert taken == ["delayed-1", "plain-0", "plain-1", "delayed-0"]

    async def test_a_message_that_comes_back_has_its_priority(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([prior(queue, "low", -1)])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await broker.put([message(queue, "plain"), prior(queue, "high", 1)])
        await consumer.settle([Outcome(delivery, Action.RELEASE)])
        assert ids(await take_all(consumer, 3)) == ["high", "plain", "low"]

    async def test_a_retried_dead_letter_has_its_priority(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([prior(queue, "high", 1)])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.DEAD)])
        await broker.put([message(queue, "plain")])
        await broker.retry_dead(queue, [("high", b"")])
        assert ids(await take_all(consumer, 2)) == ["high", "plain"]

    async def test_an_earlier_queue_goes_before_any_priority(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        first, second = f"{queue}-1", f"{queue}-2"
        await broker.put([prior(second, "urgent", 100), prior(first, "late", -100)])
        consumer = await start_consumer(broker, first, second)
        assert ids(await take_all(consumer, 2)) == ["late", "urgent"]

    async def test_a_line_is_ordered_by_priority(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([limited(queue, "first")])
        consumer = await start_consumer(broker)
        [first] = await take_all(consumer, 1)
        for name, level in (("a", 0), ("low", -1), ("high", 1), ("b", 0)):
            waiting = limited(queue, name)
            waiting.priority = level
            await broker.put([waiting])
        await consumer.settle([Outcome(first)])
        assert await run_all(consumer, 4) == ["high", "a", "b", "low"]

    async def test_a_replaced_message_has_the_priority_of_what_replaced_it(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "plain"), unique(queue, "a")])
        new = unique(queue, "a", replaces=True)
        new.priority = 7
        await broker.put([new])
        assert ids(await take_all(await start_consumer(broker), 2)) == ["a", "plain"]

    async def test_messages_with_a_priority_can_be_purged_and_cancelled(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([prior(queue, f"{level}", level) for level in (-1, 1, 100)])
        assert await broker.cancel(queue, "100", None, 0)
        assert await broker.purge(queue) == 2
        assert await (await start_consumer(broker)).idle()


def prior(queue: str, message_id: str, priority: int) -> Outgoing:
    """A message with a priority."""
    return Outgoing(queue, message_id, b"", priority=priority)
