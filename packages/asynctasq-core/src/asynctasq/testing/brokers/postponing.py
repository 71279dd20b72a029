"""Postponing: delivered again later, as if it had not been delivered before."""

from __future__ import annotations

import asyncio
import time

from asynctasq.brokers import Action, Broker, Outcome

from .fixtures import BrokerFixtures, StartConsumer, ids, message, numbered, take_all


class PostponingTests(BrokerFixtures):
    """A postponed message waits for its delay and is otherwise as it was before it was taken."""

    async def test_a_postponed_message_waits_its_delay_and_comes_as_it_was(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"body")])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        [delivery] = await take_all(consumer, 1)
        settled = time.time()
        assert await consumer.settle([Outcome(delivery, Action.POSTPONE, delay=0.4)]) == []
        assert await other_broker.state(queue, "a") == "delayed"
        [again] = await other.take(1, 20)
        assert 0.38 <= time.time() - settled < 1.5
        assert (again.id, again.body, again.deliveries) == ("a", b"body", 1)

    async def test_a_postponement_may_bring_a_new_body(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"first")])
        consumer = await start_consumer(broker)
        for body, expected in ((b"second", b"second"), (None, b"second"), (b"", b"")):
            [delivery] = await take_all(consumer, 1)
            await consumer.settle([Outcome(delivery, Action.POSTPONE, body)])
            [delivery] = await take_all(consumer, 1, timeout_seconds=5)
            assert (delivery.body, delivery.deliveries) == (expected, 1)
            await consumer.settle([Outcome(delivery, Action.RELEASE)])

    async def test_a_postponement_takes_back_one_delivery_only(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue)])
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        await take_all(consumer, 1)
        [second] = await consumer.take(1, 20)
        for _ in range(3):
            assert second.deliveries == 2
            await consumer.settle([Outcome(second, Action.POSTPONE)])
            [second] = await take_all(consumer, 1)

    async def test_postponing_the_same_again_changes_nothing(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker)
        [first] = await take_all(consumer, 1)
        postponed = Outcome(first, Action.POSTPONE)
        await consumer.settle([postponed])
        await consumer.settle([postponed])
        [second] = await take_all(consumer, 1)
        assert second.deliveries == 1
        assert await consumer.settle([postponed]) == [postponed]
        assert await broker.state(queue, "a") == "running"
        assert await consumer.settle([Outcome(second)]) == []

    async def test_a_postponement_after_the_lease_was_lost_changes_nothing(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"first")])
        late = await start_consumer(broker, lease_seconds=self.lease_seconds)
        owner = await start_consumer(other_broker)
        [old] = await take_all(late, 1)
        [current] = await owner.take(1, 20)
        outcome = Outcome(old, Action.POSTPONE, b"second", delay=60)
        assert await late.settle([outcome]) == [outcome]
        assert await broker.state(queue, "a") == "running"
        await owner.settle([Outcome(current, Action.RELEASE)])
        [again] = await take_all(owner, 1)
        assert (again.body, again.deliveries) == (b"first", 2)

    async def test_a_postponed_message_can_be_cancelled(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.POSTPONE, delay=60)])
        assert not await consumer.idle()
        assert await other_broker.cancel(queue, "a", b"cancelled", 60)
        assert await broker.state(queue, "a") is None
        assert await consumer.idle()

    async def test_hundreds_are_postponed_in_one_call_beside_others(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 400))
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 400)
        actions = (Action.POSTPONE, Action.DONE) * 200
        outcomes = [Outcome(d, a, delay=0.3) for d, a in zip(taken, actions, strict=True)]
        assert await consumer.settle(outcomes) == []
        [stats] = [s for s in await broker.stats() if s.name == queue]
        assert (stats.waiting, stats.running, stats.delayed) == (0, 0, 200)
        again = await take_all(consumer, 200)
        assert sorted(ids(again)) == [f"{i:04}" for i in range(0, 400, 2)]

    async def test_a_consumer_that_waits_wakes_when_a_postponed_message_is_due(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        [delivery] = await take_all(consumer, 1)
        waiting = asyncio.ensure_future(other.take(1, 20))
        await asyncio.sleep(0)
        await consumer.settle([Outcome(delivery, Action.POSTPONE, delay=0.2)])
        async with asyncio.timeout(1.5):
            assert ids(await waiting) == ["a"]
