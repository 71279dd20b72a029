"""Outcomes: done, retry, dead letter, release."""

from __future__ import annotations

import time

from asynctasq.brokers import Action, Broker, Outcome

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


class SettlingTests(BrokerFixtures):
    """Each outcome is one atomic step into one state."""

    async def test_a_message_that_is_done_is_forgotten(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        assert await consumer.settle([Outcome(delivery)]) == []
        assert await broker.state(queue, "a") is None
        assert await consumer.idle()
        assert await nothing_comes(consumer)

    async def test_settling_the_same_again_changes_nothing(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 4))
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 4)
        actions = (Action.DONE, Action.RETRY, Action.DEAD, Action.RELEASE)
        outcomes = [Outcome(d, a, delay=60) for d, a in zip(taken, actions, strict=True)]
        for _ in range(2):
            await consumer.settle(outcomes)
            states = [await broker.state(queue, delivery.id) for delivery in taken]
            assert states == [None, "delayed", "dead", "waiting"]

    async def test_settling_an_old_delivery_again_leaves_the_new_one_alone(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        await broker.put([message(queue, "a")])
        [first] = await take_all(consumer, 1)
        await consumer.settle([Outcome(first, Action.RELEASE)])
        [second] = await take_all(consumer, 1)
        assert second.deliveries == first.deliveries
        for action in (Action.RELEASE, Action.DONE, Action.RETRY, Action.DEAD):
            assert len(await consumer.settle([Outcome(first, action)])) == 1
        assert await broker.state(queue, "a") == "running"
        await consumer.settle([Outcome(second)])
        await broker.put([message(queue, "a")])
        [third] = await take_all(consumer, 1)
        assert len(await consumer.settle([Outcome(first), Outcome(second)])) == 2
        assert await consumer.settle([Outcome(third)]) == []

    async def test_a_retry_waits_its_delay_and_brings_its_new_body(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"first")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        settled = time.time()
        await consumer.settle([Outcome(delivery, Action.RETRY, b"second", delay=0.4)])
        assert await broker.state(queue, "a") == "delayed"
        [again] = await consumer.take(1, 20)
        assert 0.38 <= time.time() - settled < 1.5
        assert (again.id, again.body, again.deliveries) == ("a", b"second", 1)

    async def test_a_retry_without_delay_comes_at_once_and_keeps_its_body(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"first")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.RETRY)])
        [again] = await take_all(consumer, 1, timeout_seconds=5)
        assert (again.id, again.body, again.deliveries) == ("a", b"first", 1)

    async def test_a_retry_starts_the_count_of_deliveries_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        await take_all(consumer, 1)
        [second] = await consumer.take(1, 20)
        assert second.deliveries == 2
        await consumer.settle([Outcome(second, Action.RETRY)])
        [third] = await take_all(consumer, 1)
        assert third.deliveries == 1

    async def test_a_dead_message_is_kept_with_its_reason_and_never_delivered(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"body"), message(queue, "b", b"body")])
        consumer = await start_consumer(broker)
        one, two = await take_all(consumer, 2)
        before = time.time()
        await consumer.settle(
            [
                Outcome(one, Action.DEAD, info=b"why"),
                Outcome(two, Action.DEAD, b"other body", info=b"because"),
            ]
        )
        assert await broker.state(queue, "a") == "dead"
        letters = {letter.id: letter for letter in await broker.dead_letters(queue)}
        assert (letters["a"].body, letters["a"].info) == (b"body", b"why")
        assert (letters["b"].body, letters["b"].info) == (b"other body", b"because")
        assert abs(letters["a"].died_at - before) < 2
        assert letters["a"].queue == queue
        assert await nothing_comes(consumer)
        assert await consumer.idle()

    async def test_a_released_message_comes_at_once_in_its_place_and_uncounted(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        consumer = await start_consumer(broker)
        first, second = await take_all(consumer, 2)
        released = [Outcome(second, Action.RELEASE), Outcome(first, Action.RELEASE)]
        assert await consumer.settle(released) == []
        assert await broker.state(queue, "0000") == "waiting"
        taken = await take_all(await start_consumer(other_broker), 3)
        assert sorted(ids(taken[:2])) == ["0000", "0001"]
        assert taken[2].id == "0002"
        assert [delivery.deliveries for delivery in taken] == [1, 1, 1]

    async def test_a_release_takes_back_one_delivery_only(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue)])
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        await take_all(consumer, 1)
        [second] = await consumer.take(1, 20)
        await consumer.settle([Outcome(second, Action.RELEASE)])
        [again] = await take_all(consumer, 1)
        assert again.deliveries == 2

    async def test_a_release_wakes_another_consumer(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.RELEASE)])
        assert ids(await other.take(1, 5)) == ["a"]

    async def test_hundreds_of_outcomes_of_every_kind_are_settled_in_one_call(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 400))
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 400)
        actions = (Action.DONE, Action.RETRY, Action.DEAD, Action.RELEASE) * 100
        outcomes = [Outcome(d, a, delay=60) for d, a in zip(taken, actions, strict=True)]
        assert await consumer.settle(outcomes) == []
        [stats] = [s for s in await broker.stats() if s.name == queue]
        assert (stats.waiting, stats.running, stats.delayed, stats.dead) == (100, 0, 100, 100)

    async def test_one_lost_outcome_does_not_keep_the_others_from_being_applied(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 3)
        await consumer.settle([Outcome(taken[1])])
        outcomes = [Outcome(delivery, result=b"r", result_ttl=60) for delivery in taken]
        assert await consumer.settle(outcomes) == [outcomes[1]]
        assert await consumer.idle()
        assert await broker.result(queue, "0001", 0) is None
        assert await broker.result(queue, "0002", 0) == b"r"

    async def test_outcomes_of_several_queues_are_settled_together(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        names = [f"{queue}-{i}" for i in range(3)]
        await broker.put([message(name, "a") for name in names])
        consumer = await start_consumer(broker, *names)
        taken = await take_all(consumer, 3)
        assert await consumer.settle([Outcome(delivery) for delivery in taken]) == []
        assert await consumer.idle()

    async def test_settling_nothing_is_harmless(
        self, broker: Broker, start_consumer: StartConsumer
    ) -> None:
        assert await (await start_consumer(broker)).settle([]) == []

    async def test_a_delayed_retry_is_seen_by_every_broker(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.RETRY, delay=60)])

        async def delayed() -> bool:
            return await other_broker.state(queue, "a") == "delayed"

        assert await becomes(delayed)
        assert await other_broker.cancel(queue, "a", None, 0)
