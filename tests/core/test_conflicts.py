"""Replacing a call that moves meanwhile: the new arguments run once, whatever has become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from asynctasq.brokers import (
    Action,
    Consumer,
    ConsumerOptions,
    Outcome,
    Outgoing,
    Policy,
    UniqueKey,
    WorkerInfo,
)
from asynctasq.brokers.memory.broker import MemoryBroker
from asynctasq.sending.conflicts import resolve
from asynctasq.wire.message import Message


def outgoing(message_id: str, until: Any = "started") -> Outgoing:
    body = Message(message_id, "task", message_id.encode(), 0.0).encode()
    unique = UniqueKey("key", until=until, replaces=True)
    return Outgoing("default", message_id, body, policy=Policy(unique))


def payloads(deliveries: Sequence[Any]) -> list[bytes]:
    for delivery in deliveries:
        assert Message.decode(delivery.body).id == delivery.id
    return [Message.decode(delivery.body).payload for delivery in deliveries]


class Moving:
    """A broker whose first call is moved on just before one of the puts of a replacement."""

    def __init__(self, before: int, how: Action | None) -> None:
        self.broker = MemoryBroker()
        worker = WorkerInfo("w", "host", 1, ("default",), 10, 0.0)
        self.consumer: Consumer = self.broker.consumer(ConsumerOptions(worker, ("default",)))
        self.taken: list[bytes] = []
        self._before, self._how = before, how
        self._puts = 0

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        self._puts += 1
        if self._puts == self._before:
            await self.take(self._how)
        return await self.broker.put(messages)

    async def take(self, how: Action | None) -> None:
        taken = await self.consumer.take(10, 0)
        self.taken += payloads(taken)
        if how is not None:
            await self.consumer.settle([Outcome(delivery, how) for delivery in taken])


@pytest.mark.parametrize("until", ["started", "done"])
@pytest.mark.parametrize("how", [Action.DONE, Action.DEAD, None])
@pytest.mark.parametrize("before", [1, 2])
async def test_a_call_that_moves_while_it_is_replaced_loses_nothing(
    before: int, how: Action | None, until: Any
) -> None:
    moving = Moving(before, how)
    await moving.broker.put([outgoing("first", until)])
    new = outgoing("second", until)
    conflicts = await moving.broker.put([new])
    assert conflicts == {"second": "first"}
    standing = await resolve(moving.put, (), [new], conflicts)
    await moving.take(Action.DONE)
    still_runs = how is None and until == "done"
    if before == 1 and still_runs:  # what runs is not replaced
        assert standing == {"second": "first"}
        assert moving.taken == [b"first"]
    else:
        assert moving.taken.count(b"second") == 1
        assert moving.taken[-1] == b"second"


async def test_a_key_that_was_taken_by_a_third_call_meanwhile_is_that_calls() -> None:
    moving = Moving(1, Action.DONE)
    await moving.broker.put([outgoing("first")])
    new = outgoing("second")
    conflicts = await moving.broker.put([new])
    assert conflicts is not None

    async def put(messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        if not moving.taken:
            await moving.take(Action.DONE)
            await moving.broker.put([outgoing("third")])
        return await moving.broker.put(messages)

    assert await resolve(put, (), [new], conflicts) == {"second": "third"}
    await moving.take(Action.DONE)
    assert moving.taken == [b"first", b"second"]
