"""Unique keys: each is held by at most one of the queue's messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asynctasq.brokers import Action, Broker, Outcome

from .fixtures import OpenBroker, StartConsumer, becomes, ids, message, nothing_comes, take_all
from .policies import PolicedFixtures, in_threads, unique


class UniqueTests(PolicedFixtures):
    """A put with a taken key adds nothing and names the holder, also in a race."""

    needs = "polices"

    async def test_a_put_with_a_taken_key_adds_nothing_and_names_the_message_that_has_it(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        assert await broker.put([unique(queue, "a")]) is None
        sent = [unique(queue, "b"), message(queue, "plain"), unique(queue, "c", key="other")]
        assert await other_broker.put(sent) == {"b": "a"}
        assert await other_broker.state(queue, "b") is None
        assert ids(await take_all(await start_consumer(broker), 3)) == ["a", "plain", "c"]

    async def test_a_key_is_taken_within_one_put_and_by_a_delayed_message(
        self, broker: Broker, queue: str
    ) -> None:
        sent = [unique(queue, "a", delay=60), unique(queue, "b"), unique(queue, "c", delay=60)]
        assert await broker.put(sent) == {"b": "a", "c": "a"}

    async def test_keys_are_scoped_by_their_queue(self, broker: Broker, queue: str) -> None:
        assert await broker.put([unique(queue, "a"), unique(f"{queue}-2", "b")]) is None

    async def test_putting_the_same_message_again_is_no_conflict_while_it_is_held(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        for _ in range(2):
            assert await broker.put([unique(queue, "a")]) is None
        await take_all(consumer, 1)
        assert await broker.put([unique(queue, "a")]) is None
        assert await nothing_comes(consumer)

    @pytest.mark.parametrize("end", [Action.DONE, Action.DEAD])
    async def test_the_key_is_free_once_its_message_has_ended(
        self, broker: Broker, queue: str, start_consumer: StartConsumer, end: Action
    ) -> None:
        await broker.put([unique(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        assert await broker.put([unique(queue, "b")]) == {"b": "a"}
        await consumer.settle([Outcome(delivery, end)])
        assert await broker.put([unique(queue, "b")]) is None

    @pytest.mark.parametrize("delay", [0, 60])
    async def test_the_key_is_free_once_its_message_was_cancelled(
        self, broker: Broker, queue: str, delay: float
    ) -> None:
        await broker.put([unique(queue, "a", delay=delay)])
        assert await broker.cancel(queue, "a", None, 0)
        assert await broker.put([unique(queue, "b")]) is None

    async def test_the_keys_of_purged_messages_are_free(self, broker: Broker, queue: str) -> None:
        await broker.put([unique(queue, "a"), unique(queue, "b", key="other", delay=60)])
        assert await broker.purge(queue) == 2
        assert await broker.put([unique(queue, "c"), unique(queue, "d", key="other")]) is None

    @pytest.mark.parametrize("action", [Action.RETRY, Action.POSTPONE, Action.RELEASE])
    async def test_the_key_stays_taken_while_its_message_waits_to_be_run_again(
        self, broker: Broker, queue: str, start_consumer: StartConsumer, action: Action
    ) -> None:
        await broker.put([unique(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, action)])
        assert await broker.put([unique(queue, "b")]) == {"b": "a"}
        [again] = await take_all(consumer, 1)
        await consumer.settle([Outcome(again)])
        assert await broker.put([unique(queue, "b")]) is None

    async def test_the_key_goes_with_the_message_when_its_worker_dies(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a")])
        await take_all(await start_consumer(broker, lease_seconds=self.lease_seconds), 1)
        consumer = await start_consumer(other_broker)
        [again] = await consumer.take(1, 20)
        assert await broker.put([unique(queue, "b")]) == {"b": "a"}
        await consumer.settle([Outcome(again)])
        assert await broker.put([unique(queue, "b")]) is None

    async def test_a_message_that_comes_back_from_its_dead_letter_takes_no_key(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.DEAD)])
        await broker.put([unique(queue, "b")])
        assert await broker.retry_dead(queue, [("a", b"again")]) == 1
        both = await take_all(consumer, 2)
        assert sorted(ids(both)) == ["a", "b"]
        await consumer.settle([Outcome(d) for d in both if d.id == "a"])
        assert await broker.put([unique(queue, "c")]) == {"c": "b"}

    async def test_a_key_until_the_start_is_freed_by_the_first_delivery(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a", until="started")])
        assert await broker.put([unique(queue, "b", until="started")]) == {"b": "a"}
        consumer = await start_consumer(broker)
        [first] = await take_all(consumer, 1)
        assert await broker.put([unique(queue, "b", until="started")]) is None
        await consumer.settle([Outcome(first, Action.RETRY)])
        assert await broker.put([unique(queue, "c", until="started")]) == {"c": "b"}
        both = await take_all(consumer, 2)
        assert sorted(ids(both)) == ["a", "b"]
        assert await broker.put([unique(queue, "c", until="started")]) is None
        await consumer.settle([Outcome(delivery) for delivery in both])
        assert await broker.put([unique(queue, "d")]) == {"d": "c"}

    async def test_a_key_that_lasts_is_freed_by_time_alone(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a", lasts_seconds=1.0)])
        consumer = await start_consumer(broker)
        await consumer.settle([Outcome(d) for d in await take_all(consumer, 1)])
        assert await broker.put([unique(queue, "b", lasts_seconds=1.0)]) == {"b": "a"}
        assert await broker.put([unique(queue, "a", lasts_seconds=1.0)]) == {"a": "a"}

        async def free() -> bool:
            return await broker.put([unique(queue, "b", lasts_seconds=60)]) is None

        assert await becomes(free)
        assert await broker.put([unique(queue, "c", lasts_seconds=60)]) == {"c": "b"}

    async def test_a_waiting_message_is_replaced_by_one_put_under_its_id(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a", body=b"first", delay=60)])
        new = unique(queue, "b", body=b"second", replaces=True)
        assert await other_broker.put([new]) == {"b": "a"}
        new.id = "a"
        assert await other_broker.put([new]) is None
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        assert (delivery.id, delivery.body, delivery.deliveries) == ("a", b"second", 1)
        assert await broker.put([unique(queue, "c")]) == {"c": "a"}
        await consumer.settle([Outcome(delivery)])
        assert await broker.put([unique(queue, "c")]) is None

    async def test_a_replacement_may_put_off_a_message_that_waits(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a")])
        assert await broker.put([unique(queue, "a", delay=60, replaces=True)]) is None
        assert await broker.state(queue, "a") == "delayed"
        assert await nothing_comes(await start_consumer(broker))

    async def test_a_running_message_is_not_replaced(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a", body=b"first")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        new = unique(queue, "a", body=b"second", replaces=True)
        assert await broker.put([new]) == {"a": "a"}
        await consumer.settle([Outcome(delivery, Action.RELEASE)])
        [again] = await take_all(consumer, 1)
        assert again.body == b"first"

    async def test_a_dead_message_is_not_replaced(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([unique(queue, "a", body=b"first")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.DEAD)])
        new = unique(queue, "a", body=b"second", replaces=True)
        assert await broker.put([new]) == {"a": "a"}
        [letter] = await broker.find_dead(queue, ["a"])
        assert letter.body == b"first"

    async def test_a_replacement_of_a_message_that_is_done_is_added(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        assert await broker.put([unique(queue, "gone", replaces=True)]) is None
        assert ids(await take_all(await start_consumer(broker), 1)) == ["gone"]

    async def test_of_hundreds_put_at_once_by_many_threads_one_is_added(
        self, open_broker: OpenBroker, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        async def put(one: Broker, thread: int) -> list[Any]:
            sent = [unique(queue, f"{thread}-{i}") for i in range(50)]
            return await asyncio.gather(*(one.put([m]) for m in sent))

        answers = await asyncio.to_thread(in_threads, open_broker, 6, put)
        conflicts = [answer for of_thread in answers for answer in of_thread]
        assert conflicts.count(None) == 1
        [winner] = {holder for c in conflicts if c for holder in c.values()}
        consumer = await start_consumer(broker)
        assert ids(await take_all(consumer, 1)) == [winner]
        assert await nothing_comes(consumer)

    async def test_while_messages_run_and_end_a_key_is_never_held_twice_and_never_lost(
        self, open_broker: OpenBroker, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        async def put(one: Broker, thread: int) -> list[str]:
            sent = [unique(queue, f"{thread}-{i}") for i in range(60)]
            return [m.id for m in sent if await one.put([m]) is None]

        consumer = await start_consumer(broker)
        ran: list[str] = []
        putting = asyncio.create_task(asyncio.to_thread(in_threads, open_broker, 4, put))
        while True:
            ended = putting.done()
            taken = await consumer.take(10, 0.2)
            assert len(taken) <= 1
            ran += ids(taken)
            await consumer.settle([Outcome(delivery) for delivery in taken])
            if ended and not taken:
                break
        assert sorted(ran) == sorted(i for added in await putting for i in added)
        assert await broker.put([unique(queue, "last")]) is None

    async def test_keys_that_are_taken_can_be_looked_at(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        assert await self.key(broker, queue, "key") is None
        await broker.put([unique(queue, "a")])
        key = await self.key(broker, queue, "key")
        assert key is not None
        assert (key.kind, key.holders, key.waiting, key.free_at) == ("unique", ("a",), 0, None)
        consumer = await start_consumer(broker)
        await consumer.settle([Outcome(d) for d in await take_all(consumer, 1)])
        assert await self.key(broker, queue, "key") is None
