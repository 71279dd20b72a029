"""Dead letters: list, show, retry and purge, also thousands of them."""

from __future__ import annotations

from asynctasq.brokers import Action, Broker, Consumer, Outcome

from .fixtures import (
    BrokerFixtures,
    StartConsumer,
    ids,
    message,
    nothing_comes,
    numbered,
    take_all,
)


class DeadLettersTests(BrokerFixtures):
    """Nothing that failed is lost."""

    async def test_dead_letters_are_listed_newest_first_in_pages(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._kill(broker, queue, start_consumer, 5)
        listed = [letter.id for letter in await other_broker.dead_letters(queue)]
        assert listed == ["0004", "0003", "0002", "0001", "0000"]
        page = await other_broker.dead_letters(queue, limit=2, offset=1)
        assert [letter.id for letter in page] == ["0003", "0002"]
        assert await other_broker.dead_letters(queue, offset=5) == []

    async def test_one_dead_letter_can_be_had_by_its_id(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._kill(broker, queue, start_consumer, 2)
        [letter] = await broker.find_dead(queue, ["0001"])
        assert (letter.queue, letter.id, letter.body, letter.info) == (queue, "0001", b"1", b"why")
        assert await broker.find_dead(queue, ["unknown"]) == []

    async def test_many_dead_letters_are_found_among_others_each_once(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._kill(broker, queue, start_consumer, 30)
        wanted = [f"{i:04}" for i in range(0, 60, 2)]
        found = await broker.find_dead(queue, [*wanted, *wanted])
        assert sorted(letter.id for letter in found) == wanted[:15]
        assert await broker.find_dead(queue, []) == []

    async def test_a_message_that_is_not_dead_is_no_dead_letter(
        self, broker: Broker, queue: str
    ) -> None:
        await broker.put([message(queue, "a")])
        assert await broker.find_dead(queue, ["a"]) == []
        assert await broker.dead_letters(queue) == []
        assert await broker.retry_dead(queue, [("a", b"changed")]) == 0
        assert await broker.purge_dead(queue, ["a"]) == 0
        assert await broker.state(queue, "a") == "waiting"

    async def test_putting_the_id_of_a_dead_letter_changes_nothing(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._kill(broker, queue, start_consumer, 1)
        await broker.put([message(queue, "0000", b"again")])
        assert await broker.state(queue, "0000") == "dead"
        [letter] = await broker.find_dead(queue, ["0000"])
        assert letter.body == b"0"

    async def test_a_retried_dead_letter_waits_again_under_its_id(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._kill(broker, queue, start_consumer, 3)
        bodies = [("0000", b"new 0"), ("unknown", b"x"), ("0002", b"new 2")]
        assert await other_broker.retry_dead(queue, bodies) == 2
        assert await broker.state(queue, "0000") == "waiting"
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 2)
        assert sorted((d.id, d.body, d.deliveries) for d in taken) == [
            ("0000", b"new 0", 1),
            ("0002", b"new 2", 1),
        ]
        assert [letter.id for letter in await broker.dead_letters(queue)] == ["0001"]
        assert await broker.retry_dead(queue, bodies) == 0

    async def test_a_retried_dead_letter_wakes_a_waiting_take(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await self._kill(broker, queue, start_consumer, 1)
        assert await nothing_comes(consumer)
        await other_broker.retry_dead(queue, [("0000", b"")])
        assert ids(await consumer.take(1, 5)) == ["0000"]

    async def test_a_retried_dead_letter_can_die_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await self._kill(broker, queue, start_consumer, 1)
        await broker.retry_dead(queue, [("0000", b"body")])
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.DEAD, info=b"second time")])
        [letter] = await broker.dead_letters(queue)
        assert letter.info == b"second time"

    async def test_dead_letters_are_purged_one_by_one_or_all(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._kill(broker, queue, start_consumer, 4)
        await broker.put([message(queue, "waiting")])
        assert await broker.purge_dead(queue, ["0001", "unknown"]) == 1
        assert await broker.find_dead(queue, ["0001"]) == []
        assert await broker.purge_dead(queue, []) == 0
        assert await broker.purge_dead(queue) == 3
        assert await broker.dead_letters(queue) == []
        assert await broker.state(queue, "0000") is None
        assert await broker.state(queue, "waiting") == "waiting"

    async def test_thousands_of_dead_letters_are_paged_retried_and_purged(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        count = self.bulk // 2
        await self._kill(broker, queue, start_consumer, count)
        pages = [
            await broker.dead_letters(queue, limit=500, offset=offset)
            for offset in range(0, count + 500, 500)
        ]
        listed = [letter.id for page in pages for letter in page]
        assert sorted(listed) == [f"{i:04}" for i in range(count)]
        half = listed[: count // 2]
        assert await broker.retry_dead(queue, [(i, b"again") for i in half]) == len(half)
        assert await broker.purge_dead(queue) == count - len(half)
        [stats] = [s for s in await broker.stats() if s.name == queue]
        assert (stats.waiting, stats.dead) == (len(half), 0)

    async def _kill(
        self, broker: Broker, queue: str, start_consumer: StartConsumer, count: int
    ) -> Consumer:
        """Put this many numbered messages and make dead letters of them, in order."""
        await broker.put(numbered(queue, count))
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, count)
        for start in range(0, count, 500):
            dead = [Outcome(d, Action.DEAD, info=b"why") for d in taken[start : start + 500]]
            assert await consumer.settle(dead) == []
        return consumer
