"""The broker's work inside the application's transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import msgpack
import pytest
import pytest_asyncio

from asynctasq.adapters.statements import Run
from asynctasq.brokers import (
    Broker,
    Delivery,
    Outcome,
    Outgoing,
    Policy,
    Transactional,
    UniqueKey,
)

from .fixtures import BrokerFixtures, StartConsumer, becomes, ids, message, numbered

OpenTransaction = Callable[[], AbstractAsyncContextManager[Run]]
"""Begins a transaction on the broker's database; an exception rolls it back."""


class _RolledBack(Exception):
    """Ends a transaction."""


class JoiningTests(BrokerFixtures):
    """What a transaction did shows with its commit: to nobody before, and not after a rollback."""

    needs = "joins_transactions"

    @pytest_asyncio.fixture
    async def joining(self, broker: Broker) -> Transactional:
        """A broker whose work can be done inside a transaction, with its tables made."""
        assert isinstance(broker, Transactional)
        await broker.stats()
        return broker

    async def test_a_transaction_on_its_own_database_is_here(
        self, joining: Transactional, open_transaction: OpenTransaction
    ) -> None:
        async with open_transaction() as run:
            answer = await joining.is_here(await run(joining.whereabouts()))
            if answer is None:
                answer = await joining.is_here(await run(joining.whereabouts()))
            assert answer is True

    async def test_what_is_put_is_there_with_the_commit_and_in_order(
        self,
        joining: Transactional,
        other_broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        messages = numbered(queue, 100)
        async with open_transaction() as run:
            assert await _put(joining, messages, run) == []
            assert await other_broker.state(queue, "0000") is None
        assert await other_broker.state(queue, "0000") == "waiting"
        taken = await (await start_consumer(other_broker)).take(200, 5)
        assert [(d.id, d.body) for d in taken] == [(m.id, m.body) for m in messages]

    async def test_what_is_rolled_back_was_never_put(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
    ) -> None:
        with suppress(_RolledBack):
            async with open_transaction() as run:
                await _put(joining, [message(queue, "gone")], run)
                raise _RolledBack
        assert await broker.state(queue, "gone") is None

    async def test_a_message_that_is_held_already_is_left_as_it_is(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        await broker.put([message(queue, "a", b"first")])
        async with open_transaction() as run:
            assert await _put(joining, [message(queue, "a", b"second")], run) == []
        [delivery] = await (await start_consumer(broker)).take(10, 5)
        assert delivery.body == b"first"

    @pytest.mark.parametrize(
        "body", [b"", b"\x00", bytes(range(256)), b"'\"\\{}?%s$1:x", b"x" * 100_000]
    )
    async def test_bodies_arrive_as_they_were(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
        body: bytes,
    ) -> None:
        odd = "quoted ' \" \\ {} ? %s $1 ü"
        async with open_transaction() as run:
            await _put(joining, [message(queue, odd, body)], run)
        [delivery] = await (await start_consumer(broker)).take(10, 5)
        assert (delivery.id, delivery.body) == (odd, body)

    async def test_due_times_and_priorities_are_kept(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        later = [message(queue, "later", delay=60), Outgoing(queue, "never", b"", float("inf"))]
        urgent = Outgoing(queue, "urgent", b"", priority=5)
        async with open_transaction() as run:
            await _put(joining, [*later, message(queue, "plain"), urgent], run)
        assert [await broker.state(queue, m.id) for m in later] == ["delayed", "delayed"]
        assert ids(await (await start_consumer(broker)).take(10, 5)) == ["urgent", "plain"]

    async def test_a_unique_key_is_taken_with_the_commit(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
    ) -> None:
        first, second, third = (_unique(queue, name) for name in ("first", "second", "third"))
        with suppress(_RolledBack):
            async with open_transaction() as run:
                assert await _put(joining, [first], run) == []
                raise _RolledBack
        async with open_transaction() as run:
            assert await _put(joining, [second], run) == []
            assert await _put(joining, [third], run) == [("third", "second")]
        assert await broker.put([first]) == {"first": "second"}
        assert await broker.state(queue, "third") is None

    async def test_of_two_who_want_a_key_at_once_one_waits_for_the_others_end(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
    ) -> None:
        async with open_transaction() as run:
            await _put(joining, [_unique(queue, "first")], run)
            second = asyncio.ensure_future(broker.put([_unique(queue, "second")]))
            await asyncio.wait([second], timeout=0.2)
            assert not second.done()
        assert await second == {"second": "first"}

    async def test_a_delivery_is_settled_with_the_commit(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        await broker.put(numbered(queue, 2))
        consumer = await start_consumer(broker)
        kept, plain = await consumer.take(2, 5)
        with suppress(_RolledBack):
            async with open_transaction() as run:
                assert await run(joining.settling(Outcome(_travelled(plain))))
                raise _RolledBack
        assert await broker.state(queue, plain.id) == "running"
        async with open_transaction() as run:
            assert await run(joining.settling(Outcome(_travelled(plain))))
            outcome = Outcome(_travelled(kept), result=b"\x00result", result_ttl=60)
            assert await run(joining.settling(outcome))
            assert await broker.state(queue, kept.id) == "running"
            assert await broker.result(queue, kept.id, 0) is None
        assert [await broker.state(queue, d.id) for d in (kept, plain)] == [None, None]
        assert await broker.result(queue, kept.id, 0) == b"\x00result"
        assert len(await consumer.settle([Outcome(kept)])) == 1

    async def test_a_delivery_whose_lease_was_lost_is_not_settled(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        await broker.put([message(queue, "a")])
        first = await start_consumer(broker)
        [lost] = await first.take(1, 5)
        await first.stop()
        second = await start_consumer(broker)
        [current] = await second.take(1, 5)
        async with open_transaction() as run:
            assert not await run(joining.settling(Outcome(lost)))
        assert await second.settle([Outcome(current)]) == []

    async def test_a_settlement_that_is_not_committed_yet_holds_up_nobody_else(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        await broker.put(numbered(queue, 2))
        silent = await start_consumer(broker, lease_seconds=self.lease_seconds)
        settled, other = await silent.take(2, 5)
        heir = await start_consumer(broker)
        async with open_transaction() as run:
            assert await run(joining.settling(Outcome(settled)))
            [again] = await heir.take(10, 20)
            assert (again.id, again.deliveries) == (other.id, 2)
            assert await heir.take(10, 0.3) == []
        assert await broker.state(queue, settled.id) is None
        assert await heir.settle([Outcome(again)]) == []

    async def test_a_settlement_that_is_rolled_back_after_its_lease_is_delivered_again(
        self,
        joining: Transactional,
        broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        await broker.put([message(queue, "a")])
        silent = await start_consumer(broker, lease_seconds=self.lease_seconds)
        [settled] = await silent.take(1, 5)
        heir = await start_consumer(broker)
        with suppress(_RolledBack):
            async with open_transaction() as run:
                assert await run(joining.settling(Outcome(settled)))
                assert await heir.take(1, 2 * self.lease_seconds) == []
                raise _RolledBack
        [again] = await heir.take(1, 20)
        assert (again.id, again.deliveries) == ("a", 2)

    async def test_who_waits_is_woken_once_told_of_the_commit(
        self,
        joining: Transactional,
        broker: Broker,
        other_broker: Broker,
        queue: str,
        open_transaction: OpenTransaction,
        start_consumer: StartConsumer,
    ) -> None:
        consumer = await start_consumer(other_broker)
        waiting = asyncio.ensure_future(consumer.take(1, 20))
        messages = [message(queue, "a")]
        async with open_transaction() as run:
            await _put(joining, messages, run)
        joining.tell_put(messages)
        [delivery] = await asyncio.wait_for(waiting, 20)
        result = asyncio.ensure_future(broker.result(queue, "a", 20))
        outcome = Outcome(delivery, result=b"done", result_ttl=60)
        async with open_transaction() as run:
            assert await run(joining.settling(outcome))
        assert isinstance(other_broker, Transactional)
        other_broker.tell_settled(outcome)
        assert await result == b"done"
        assert await becomes(lambda: _is_gone(broker, queue))


async def _is_gone(broker: Broker, queue: str) -> bool:
    return await broker.state(queue, "a") is None


def _travelled(delivery: Delivery) -> Delivery:
    """The delivery as a child process receives it."""
    tag = msgpack.unpackb(msgpack.packb(delivery.tag))
    return Delivery(delivery.queue, delivery.id, delivery.body, delivery.deliveries, tag)


def _unique(queue: str, name: str) -> Outgoing:
    return Outgoing(queue, name, b"", policy=Policy(unique=UniqueKey("key")))


async def _put(
    joining: Transactional, messages: Sequence[Outgoing], run: Run
) -> list[tuple[Any, ...]]:
    return [tuple(row) for statement in joining.putting(messages) for row in await run(statement)]
