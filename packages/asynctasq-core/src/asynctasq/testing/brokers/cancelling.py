"""Removing messages that have not started: cancel and purge."""

from __future__ import annotations

import asyncio

from asynctasq.brokers import Action, Broker, Outcome

from .fixtures import (
    BrokerFixtures,
    StartConsumer,
    ids,
    message,
    nothing_comes,
    numbered,
    take_all,
)


class CancellingTests(BrokerFixtures):
    """Only messages that nobody is running are removed."""

    async def test_a_waiting_or_delayed_message_can_be_cancelled_once(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "waiting"), message(queue, "delayed", delay=0.2)])
        for name in ("waiting", "delayed"):
            assert await other_broker.cancel(queue, name, None, 0)
            assert await broker.state(queue, name) is None
            assert not await other_broker.cancel(queue, name, None, 0)
        assert await nothing_comes(await start_consumer(broker), 0.4)

    async def test_a_cancelled_message_may_leave_a_result(
        self, broker: Broker, other_broker: Broker, queue: str
    ) -> None:
        await broker.put([message(queue, "a")])
        waiting = asyncio.ensure_future(other_broker.result(queue, "a", 30))
        assert await broker.cancel(queue, "a", b"cancelled", 60)
        async with asyncio.timeout(2):
            assert await waiting == b"cancelled"

    async def test_what_runs_or_is_dead_or_unknown_cannot_be_cancelled(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "running"), message(queue, "dead")])
        consumer = await start_consumer(broker)
        running, dead = await take_all(consumer, 2)
        await consumer.settle([Outcome(dead, Action.DEAD)])
        for name in ("running", "dead", "unknown"):
            assert not await broker.cancel(queue, name, b"cancelled", 60)
            assert await broker.result(queue, name, 0) is None
        assert await broker.find_dead(queue, ["dead"]) != []
        assert await consumer.settle([Outcome(running)]) == []

    async def test_a_released_or_retried_message_can_be_cancelled(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "released"), message(queue, "retried")])
        consumer = await start_consumer(broker)
        released, retried = await take_all(consumer, 2)
        await consumer.settle(
            [Outcome(released, Action.RELEASE), Outcome(retried, Action.RETRY, delay=60)]
        )
        assert await broker.cancel(queue, "released", None, 0)
        assert await broker.cancel(queue, "retried", None, 0)
        assert await consumer.idle()

    async def test_cancelling_some_leaves_the_others_in_their_order(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 50))
        for i in range(0, 50, 2):
            assert await broker.cancel(queue, f"{i:04}", None, 0)
        consumer = await start_consumer(broker)
        assert ids(await take_all(consumer, 25)) == [f"{i:04}" for i in range(1, 50, 2)]
        assert await nothing_comes(consumer)

    async def test_a_message_is_either_cancelled_or_taken(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        for i in range(30):
            await broker.put([message(queue, str(i))])
            taken, cancelled = await asyncio.gather(
                consumer.take(1, 0.05), other_broker.cancel(queue, str(i), None, 0)
            )
            assert (ids(taken), cancelled) in (([str(i)], False), ([], True))

    async def test_a_purge_deletes_what_waits_or_is_delayed_and_nothing_else(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        elsewhere = f"{queue}-elsewhere"
        await broker.put([message(queue, "running"), message(queue, "dead")])
        consumer = await start_consumer(broker)
        running, dead = await take_all(consumer, 2)
        await consumer.settle([Outcome(dead, Action.DEAD)])
        await broker.put([*numbered(queue, 20), message(queue, "delayed", delay=60)])
        await broker.put([message(elsewhere, "kept")])
        assert await other_broker.purge(queue) == 21
        assert await other_broker.purge(queue) == 0
        assert await nothing_comes(consumer)
        assert await broker.state(queue, "dead") == "dead"
        assert await broker.state(elsewhere, "kept") == "waiting"
        assert await consumer.settle([Outcome(running)]) == []

    async def test_a_purged_queue_can_be_used_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        await broker.put([message(queue, "a", b"old")])
        await broker.purge(queue)
        await broker.put([message(queue, "a", b"new")])
        [delivery] = await take_all(consumer, 1)
        assert delivery.body == b"new"

    async def test_purging_a_queue_that_is_not_there_does_nothing(
        self, broker: Broker, queue: str
    ) -> None:
        assert await broker.purge(queue) == 0
        assert await broker.purge_dead(queue) == 0
