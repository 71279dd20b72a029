"""Sends that wait for a commit, and sending them together after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from ..adapters.hookspecs import DeferredSend
from ..brokers import Outgoing
from ..errors import BrokerError, BrokerUnavailable
from .connections import Connections
from .joining import Joining
from .outbox import Outbox
from .portal import portal


@dataclass(slots=True)
class Deferred:
    """The `DeferredSend` of one dispatch.

    Attributes:
        outbox: Where its transaction can keep it, if the application has an outbox.
        joining: Puts it inside its transaction, if the broker can do that.
        state: `"waiting"`, then `"dropped"`, `"cancelled"` or `"sending"`, and after that `"sent"`
            or `"failed"` (the broker may have it anyway), `"kept"` in the outbox, or `"doubtful"`:
            kept or put by a transaction whose end is unknown. The handle shows it.
        learn: Called with the id of the call that stands for it, if its unique key was taken.
    """

    connections: Connections
    outgoing: Outgoing
    outbox: Outbox | None = None
    joining: Joining | None = None
    state: str = "waiting"
    learn: Callable[[str], None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> None:
        send_together([self])

    async def send_async(self) -> None:
        """Send now, from a running event loop."""
        await send_together_async([self])

    def claim(self) -> Deferred | None:
        """Claim the right to send; `None` if it was already dropped, cancelled or sent."""
        return self if self._became("sending") else None

    def drop(self) -> None:
        """Discard the send."""
        self._became("dropped")

    def cancel(self) -> bool:
        """Discard it because its sender cancelled it; return whether it was still waiting."""
        return self._became("cancelled")

    def _became(self, state: str) -> bool:
        """Leave the waiting state; return whether this call was the first to do so."""
        with self._lock:
            is_first = self.state == "waiting"
            self.state = state if is_first else self.state
        return is_first


@dataclass(slots=True)
class Shares:
    """A send that waits for several transactions: the last commit sends, any rollback drops."""

    send: Deferred
    missing: int

    @property
    def outbox(self) -> Outbox | None:
        """As `Deferred.outbox`: the last transaction keeps it."""
        return self.send.outbox

    @property
    def joining(self) -> Joining | None:
        """As `Deferred.joining`: the last transaction puts it."""
        return self.send.joining

    def __call__(self) -> None:
        send_together([self])

    async def send_async(self) -> None:
        """A transaction has committed; send if it was the last."""
        await send_together_async([self])

    def claim(self) -> Deferred | None:
        """Like `Deferred.claim`, but called once for each transaction."""
        self.missing -= 1
        return self.send.claim() if self.missing == 0 else None

    def drop(self) -> None:
        """A transaction was rolled back."""
        self.send.drop()


#: The sends that core makes; a tuple is checked faster than a union.
OWN_SENDS = (Deferred, Shares)


def send_together(sends: Iterable[DeferredSend]) -> None:
    """Send everything that a committed transaction held back: in order, in one round trip.

    For synchronous code; blocks until the broker has them, at most for its `timeout` in seconds. A
    message that the broker refuses does not keep the others back.

    Raises:
        BrokerError: Some were not sent; the first error, raised once all have been tried.
    """
    claimed, others = _claimed(sends)
    errors: list[Exception] = []
    for send in others:
        try:
            send()
        except Exception as e:  # noqa: BLE001 - raised once all have been tried
            errors.append(e)
    if claimed:
        errors += portal.run(_send_all(claimed))
    if errors:
        raise errors[0]


async def send_together_async(sends: Iterable[DeferredSend]) -> None:
    """Like `send_together`, for a running event loop."""
    claimed, others = _claimed(sends)
    errors: list[Exception] = []
    for send in others:
        try:
            await send.send_async()
        except Exception as e:  # noqa: BLE001 - raised once all have been tried
            errors.append(e)
    errors += await _send_all(claimed)
    if errors:
        raise errors[0]


def _claimed(sends: Iterable[DeferredSend]) -> tuple[list[Deferred], list[DeferredSend]]:
    """Claim our own sends, which go out together; return them, and other kinds of sends."""
    claimed: list[Deferred] = []
    others: list[DeferredSend] = []
    for send in sends:
        if not isinstance(send, OWN_SENDS):
            others.append(send)
        elif (deferred := send.claim()) is not None:
            claimed.append(deferred)
    return claimed, others


async def _send_all(claimed: list[Deferred]) -> list[Exception]:
    errors: list[Exception] = []
    for connections, batch in groupby(claimed, attrgetter("connections")):
        errors += await _send(connections, list(batch))
    return errors


def learn(batch: Iterable[Deferred], standing: Mapping[str, str]) -> None:
    """Tell sends whose unique keys were taken which calls stand for them."""
    for deferred in batch:
        if (existing := standing.get(deferred.outgoing.id)) and deferred.learn is not None:
            deferred.learn(existing)


async def _send(connections: Connections, batch: list[Deferred]) -> list[Exception]:
    """Send a batch; return the errors."""
    state = "failed"
    try:
        learn(batch, await connections.put_resolved([deferred.outgoing for deferred in batch]))
        state = "sent"
    except BrokerUnavailable as e:
        return [e]
    except BrokerError as e:
        if len(batch) == 1:
            return [e]
        # Perhaps the server refuses only one of them, so send each alone.
        return [e for deferred in batch for e in await _send(connections, [deferred])]
    finally:
        for deferred in batch:
            if deferred.state == "sending":
                deferred.state = state
    return []
