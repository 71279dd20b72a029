"""Leases: held, renewed, run out, lost, released."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from asynctasq.brokers import Action, Broker, Consumer, ConsumerOptions, Delivery, Outcome

from .fixtures import (
    BrokerFixtures,
    StartConsumer,
    ids,
    message,
    nothing_comes,
    numbered,
    take_all,
    worker_info,
)


class LeasingTests(BrokerFixtures):
    """A message has one owner at a time, and is never without one for longer than a lease."""

    async def test_a_leased_message_is_given_to_nobody_else(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue)])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        assert len(await take_all(consumer, 1)) == 1
        assert await nothing_comes(consumer)
        assert await nothing_comes(other)

    async def test_a_lease_that_ran_out_is_delivered_again_with_nothing_else_happening(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a", b"body")])
        dead = await start_consumer(broker, lease_seconds=self.lease_seconds)
        alive = await start_consumer(other_broker, lease_seconds=self.lease_seconds)
        [first] = await take_all(dead, 1)
        started = time.monotonic()
        [again] = await alive.take(10, 20)
        assert self.lease_seconds * 0.8 <= time.monotonic() - started < self.lease_seconds + 1
        assert (again.id, again.body) == ("a", b"body")
        assert (first.deliveries, again.deliveries) == (1, 2)

    async def test_every_delivery_after_a_lost_lease_is_counted(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue)])
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        counts = [(await consumer.take(1, 20))[0].deliveries for _ in range(3)]
        assert counts == [1, 2, 3]

    async def test_messages_whose_lease_ran_out_come_before_new_ones_in_their_order(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 4))
        dead = await start_consumer(broker, lease_seconds=self.lease_seconds)
        await take_all(dead, 2)
        await asyncio.sleep(self.lease_seconds + 0.1)  # a whole lease must pass
        taken = await take_all(await start_consumer(broker), 4)
        assert ids(taken) == ["0000", "0001", "0002", "0003"]

    @pytest.mark.parametrize(
        ("action", "body"),
        [
            (Action.DONE, None),
            (Action.RETRY, b"changed"),
            (Action.DEAD, b"changed"),
            (Action.RELEASE, None),
        ],
        ids=lambda value: value.value if isinstance(value, Action) else "",
    )
    async def test_an_outcome_after_the_lease_was_lost_changes_nothing(
        self,
        broker: Broker,
        other_broker: Broker,
        queue: str,
        start_consumer: StartConsumer,
        action: Action,
        body: bytes | None,
    ) -> None:
        late, delivery, owner, current = await self._lost_lease(
            broker, other_broker, queue, start_consumer
        )
        keeps = action in (Action.DONE, Action.DEAD)
        outcome = Outcome(delivery, action, body, result=b"late" if keeps else None, result_ttl=60)
        assert await late.settle([outcome]) == [outcome]
        assert await broker.state(queue, "a") == "running"
        assert await broker.result(queue, "a", 0) is None
        assert await broker.dead_letters(queue) == []
        assert await owner.settle([Outcome(current)]) == []
        assert await broker.state(queue, "a") is None

    async def test_a_lost_lease_cannot_be_renewed(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        late, delivery, owner, current = await self._lost_lease(
            broker, other_broker, queue, start_consumer
        )
        assert await asyncio.to_thread(late.renew, [delivery]) == [delivery]
        assert await asyncio.to_thread(owner.renew, [current]) == []

    async def test_a_consumer_that_takes_its_own_lost_message_again_owns_the_new_delivery_only(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        [old] = await take_all(consumer, 1)
        [new] = await consumer.take(1, 20)
        assert await asyncio.to_thread(consumer.renew, [new, old]) == [old]
        stale = Outcome(old)
        assert await consumer.settle([stale]) == [stale]
        assert await broker.state(queue, "a") == "running"
        assert await consumer.settle([Outcome(new)]) == []

    async def test_a_renewed_lease_lasts_as_long_as_it_is_renewed(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        other = await start_consumer(other_broker)
        held = await take_all(consumer, 3)
        waiting = asyncio.ensure_future(other.take(10, self.lease_seconds * 3))
        while not waiting.done():
            assert await asyncio.to_thread(consumer.renew, held) == []
            await asyncio.wait([waiting], timeout=self.lease_seconds / 4)
        assert await waiting == []
        assert await consumer.settle([Outcome(delivery) for delivery in held]) == []

    async def test_leases_can_be_renewed_while_the_event_loop_is_blocked(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue)])
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        held = await take_all(consumer, 1)
        stop = threading.Event()

        def renew_now_and_then() -> None:
            while not stop.is_set():
                consumer.renew(held)
                stop.wait(self.lease_seconds / 4)

        renewing = asyncio.create_task(asyncio.to_thread(renew_now_and_then))
        await asyncio.sleep(0)
        time.sleep(self.lease_seconds * 2)  # noqa: ASYNC251 - the subject: a blocked loop
        stop.set()
        await renewing
        assert await nothing_comes(await start_consumer(other_broker))
        assert await consumer.settle([Outcome(delivery) for delivery in held]) == []

    async def test_renewing_nothing_keeps_other_leases_as_they_are(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue)])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        assert await asyncio.to_thread(consumer.renew, []) == []
        assert await consumer.settle([Outcome(delivery)]) == []

    async def test_stop_gives_back_what_is_leased_in_its_place_and_uncounted(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 4))
        options = ConsumerOptions(worker_info(queue), (queue,))
        consumer = broker.consumer(options)
        await consumer.start()
        assert len(await take_all(consumer, 2)) == 2
        await consumer.stop()
        taken = await take_all(await start_consumer(other_broker), 4)
        assert [(d.id, d.deliveries) for d in taken] == [(f"{i:04}", 1) for i in range(4)]

    async def test_a_stopped_consumer_wakes_one_that_waits(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        await take_all(consumer, 1)
        waiting = asyncio.ensure_future(other.take(10, 20))
        await consumer.stop()
        async with asyncio.timeout(2):
            assert ids(await waiting) == ["a"]

    async def test_the_leases_of_a_dead_worker_can_be_let_go_at_once(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        options = ConsumerOptions(worker_info(queue), (queue,))
        dead = broker.consumer(options)
        await dead.start()
        taken = await take_all(dead, 2)
        bystander = await start_consumer(broker)
        [kept] = await take_all(bystander, 1)
        assert await other_broker.release_worker(options.worker.id, [queue]) == 2
        assert options.worker.id not in {worker.id for worker in await broker.workers()}
        again = await take_all(await start_consumer(other_broker), 2)
        assert [(d.id, d.deliveries) for d in again] == [("0000", 2), ("0001", 2)]
        late = [Outcome(delivery) for delivery in taken]
        assert await dead.settle(late) == late
        assert await bystander.settle([Outcome(kept)]) == []
        await dead.stop()

    async def test_letting_go_of_an_unknown_worker_does_nothing(
        self, broker: Broker, queue: str
    ) -> None:
        assert await broker.release_worker("nobody", [queue]) == 0

    async def _lost_lease(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> tuple[Consumer, Delivery, Consumer, Delivery]:
        """A consumer that lost a lease, and the one that has it now."""
        await broker.put([message(queue, "a")])
        late = await start_consumer(broker, lease_seconds=self.lease_seconds)
        owner = await start_consumer(other_broker)
        [delivery] = await take_all(late, 1)
        [current] = await owner.take(1, 20)
        return late, delivery, owner, current
