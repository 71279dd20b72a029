"""Shares round trips among calls dispatched at the same time on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter

from ..brokers import Broker, Outgoing
from ..errors import BrokerError, BrokerUnavailable
from ..events import Dispatched, wanted
from .telling import tell_dispatched

#: Limits of one round trip: preparing this much blocks the event loop for some milliseconds, and
#: keeps the broker busy for as long.
_MOST_MESSAGES, _MOST_BYTES = 500, 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Put:
    """Messages on their way, and the future that their caller awaits.

    Attributes:
        deadline: When its caller times out, by the event loop's clock.
    """

    messages: Sequence[Outgoing]
    future: asyncio.Future[Mapping[str, str] | None]
    deadline: float


@dataclass(slots=True)
class Batcher:
    """Collects messages put while a round trip is under way, and sends them in the next one.

    Belongs to one event loop. Messages put in one iteration of the loop go out together. The broker
    bounds the time of a round trip; for a message waiting for one, time counts from its `put`.
    """

    broker: Broker
    _waiting: list[_Put] = field(default_factory=list)
    _under_way: list[_Put] = field(default_factory=list)
    _sending: asyncio.Task[None] | None = None
    _expiring: asyncio.TimerHandle | None = None

    def put(self, messages: Sequence[Outgoing]) -> asyncio.Future[Mapping[str, str] | None]:
        """Hand over messages; the future is done when the broker has them.

        Its result is that of `Sending.put` for all messages of the round trip. It raises
        `BrokerUnavailable` after `Broker.timeout_seconds`; messages still waiting for a round trip
        are then not sent.
        """
        loop = asyncio.get_running_loop()
        put = _Put(messages, loop.create_future(), inf)
        self._waiting.append(put)
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())
        elif self._under_way:
            put.deadline = loop.time() + self.broker.timeout_seconds
            if self._expiring is None:
                self._expiring = loop.call_at(put.deadline, self._expire)
        return put.future

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                self._under_way, self._waiting = self._waiting, []
                await self._send(self._under_way)
        finally:
            self._sending, self._under_way = None, []
            if self._expiring is not None:
                self._expiring.cancel()
                self._expiring = None

    async def _send(self, batch: Sequence[_Put]) -> None:
        error: BaseException | None = None
        refused: Mapping[str, str] | None = None
        messages = [message for put in batch for message in put.messages]
        try:
            if len(messages) == 1:
                refused = await self.broker.put(messages)
                if Dispatched in wanted:
                    tell_dispatched(messages, refused)
            else:
                refused = await self._put_many(messages)
        except BaseException as e:  # noqa: BLE001 - re-raised to each caller
            error = e
        if len(batch) > 1 and isinstance(error, BrokerError) and not _concerns_all(error):
            for part in batch:  # one of them is to blame; putting what the broker has is harmless
                await self._send([part])
            return
        for put in batch:
            if put.future.done():  # its caller was cancelled or has timed out
                continue
            if error is None:
                put.future.set_result(refused)
            else:
                put.future.set_exception(error)
        if isinstance(error, asyncio.CancelledError):
            raise error

    async def _put_many(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Send messages, in several round trips if there are very many."""
        refused: Mapping[str, str] | None = None
        for portion in _portions(messages):
            found = await self.broker.put(portion)
            if Dispatched in wanted:
                tell_dispatched(portion, found)
            if found:
                refused = {**(refused or {}), **found}
            if len(portion) < len(messages):
                await asyncio.sleep(0)  # some brokers never yield to the loop themselves
        return refused

    def _expire(self) -> None:
        """Time out callers that are overdue; their unsent messages will not be sent."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        puts = [put for put in (*self._under_way, *self._waiting) if not put.future.done()]
        for put in puts:
            if put.deadline <= now:
                text = f"{self.broker.describe()} did not answer in time"
                put.future.set_exception(BrokerUnavailable(text))
        self._waiting = [put for put in self._waiting if not put.future.done()]
        nearest = min((put.deadline for put in puts if not put.future.done()), default=inf)
        self._expiring = loop.call_at(nearest, self._expire) if nearest < inf else None


def _portions(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    for start in range(0, len(messages), _MOST_MESSAGES):
        yield from _halved(messages[start : start + _MOST_MESSAGES])


def _halved(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """The messages in parts within the size limit; a larger single message is its own part."""
    if len(messages) == 1 or sum(map(len, map(_BODY, messages))) <= _MOST_BYTES:
        yield messages
    else:
        half = len(messages) // 2
        yield from _halved(messages[:half])
        yield from _halved(messages[half:])


_BODY = attrgetter("body")


def _concerns_all(error: BrokerError) -> bool:
    """Whether every message of the round trip would have failed the same way on its own."""
    return isinstance(error, BrokerUnavailable)
