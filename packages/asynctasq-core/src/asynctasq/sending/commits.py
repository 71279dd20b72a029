"""Dispatches that wait for a transaction: which one, and what happens to them at its end.

Owns the rule that a call whose row is not committed yet is not sent before the commit, and not at
all after a rollback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, cast

from ..adapters.hookspecs import DeferredSend
from ..adapters.lazy import unfetched_reference
from ..adapters.plugins import Adapter, Adapters
from ..adapters.statements import Database, Run, Statement
from ..brokers import Outgoing
from ..errors import BrokerError, BrokerUnavailable, ConfigurationError
from .connections import Connections
from .joining import Joining, Wait, finished, wait_blocking, without_waiting
from .outbox import Outbox
from .portal import portal
from .telling import tell_dispatched

#: Makes a send wait for a transaction.
Registration = Callable[[DeferredSend], None]


@dataclass(slots=True)
class Atomic:
    """The transaction of this context's atomic task, which its dispatches are part of.

    Attributes:
        target: What the adapter's `after_commit` takes for it.
        is_open: Whether it is still open; code that the task left running may outlive it.
    """

    adapter: Adapter
    target: object
    is_open: bool = True


_atomic: ContextVar[Atomic | None] = ContextVar("asynctasq_atomic", default=None)


def open_atomic() -> Atomic | None:
    """The open transaction of the atomic task running here; `None` if there is none."""
    atomic = _atomic.get()
    return atomic if atomic is not None and atomic.is_open else None


@contextmanager
def dispatching_in(atomic: Atomic) -> Iterator[None]:
    """Make everything dispatched here wait for this transaction."""
    token = _atomic.set(atomic)
    try:
        yield
    finally:
        atomic.is_open = False
        _atomic.reset(token)


def what_to_wait_for(
    wait_for: object, models: Sequence[tuple[Any, object]], adapters: Adapters
) -> Registration | None:
    """A function that registers a send with the open transactions that the call depends on.

    Args:
        wait_for: The target given to `.on_commit`; `None` if it was not called.
        models: The call's model instances, each preceded by its adapter.
    """
    if wait_for is not None and wait_for is not True:
        return _given_transaction(wait_for, adapters)
    pending = [
        _after_commit(adapter, obj)
        for adapter, obj in models
        if adapter.is_pending_write is not None
        and unfetched_reference(obj) is None  # nothing was written through a lazy instance
        and adapter.is_pending_write(obj)
    ]
    if (atomic := open_atomic()) is not None:
        pending.append(_after_commit(atomic.adapter, atomic.target))
    if pending:
        return pending[0] if len(pending) == 1 else _after_all(pending)
    if wait_for is True:
        for adapter in adapters.with_hook("open_transaction"):
            target = adapter.open_transaction()  # type: ignore[misc]
            if target is not None:
                return _after_commit(adapter, target)
    return None


def _given_transaction(target: object, adapters: Adapters) -> Registration:
    for adapter in adapters.with_hook("owns_transaction"):
        if adapter.owns_transaction(target):  # type: ignore[misc]
            return _after_commit(adapter, target)
    raise ConfigurationError(
        f"on_commit({type(target).__qualname__}): no installed adapter knows such a session, "
        f"connection or alias"
    )


def _after_commit(adapter: Adapter, obj: object) -> Registration:
    if adapter.after_commit is None:
        raise ConfigurationError(f"adapter {adapter.name!r} cannot wait for a commit")
    hook = adapter.after_commit
    return lambda send: hook(obj, send)


def _after_all(registrations: Sequence[Registration]) -> Registration:
    """Combine several registrations: instances may have been written in several transactions."""

    def register(send: DeferredSend) -> None:
        shares = _Shares(cast(Deferred, send), len(registrations))
        for registration in registrations:
            registration(shares)

    return register


@dataclass(slots=True)
class _Shares:
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
        if not isinstance(send, _OWN_SENDS):
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


@dataclass(slots=True)
class _Put:
    """The messages that a transaction has put into the broker's tables.

    Attributes:
        refused: The messages that were not added, as returned by `Sending.put`.
        standing: For each of those, by id, the call that stands for it.
    """

    joining: Joining
    deferred: list[Deferred]
    refused: Mapping[str, str] = field(default_factory=dict)
    standing: Mapping[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> list[Outgoing]:
        return [deferred.outgoing for deferred in self.deferred]

    async def put(self, run: Run) -> None:
        self.refused, self.standing = await self.joining.put(self.messages, run)

    def note_committed(self) -> None:
        for deferred in self.deferred:
            deferred.state = "sent"
        learn(self.deferred, self.standing)
        tell_dispatched(self.messages, self.refused)


#: The sends that core makes; a tuple is checked faster than a union.
_OWN_SENDS = (Deferred, _Shares)


class DeferredSends:
    """The sends that one transaction holds back, for an adapter's `after_commit`.

    Keeps the order of the dispatches, and knows savepoints: a released one leaves its sends to the
    transaction, one that is rolled back drops them. Not for several threads at once.

    An adapter that can run statements in its transactions awaits `keep_async`, or calls `keep`,
    just before each commit. With an outbox, or if the broker's tables are in the same database,
    whatever waits then becomes part of the transaction, and `send` neither fails nor waits.

    Args:
        adapter: The name of the adapter's entry point.
        database: The transaction's database, if the adapter can run statements in it.
    """

    def __init__(self, adapter: str = "", database: Database | None = None) -> None:
        self._adapter = adapter
        self._database = database
        self._sends: list[DeferredSend] = []
        self._kept: list[Deferred] = []
        self._put: list[_Put] = []

    def __len__(self) -> int:
        return len(self._sends) + len(self._kept) + len(self._put)

    def add(self, send: DeferredSend) -> None:
        """Hold back a send."""
        self._sends.append(send)

    def extend(self, released: DeferredSends) -> None:
        """Take over what a released savepoint held back."""
        self._sends += released._taken()

    def savepoint(self) -> int:
        """A mark for `roll_back_to`."""
        return len(self._sends)

    def roll_back_to(self, mark: int) -> None:
        """Drop what was held back since the mark."""
        dropped, self._sends = self._sends[mark:], self._sends[:mark]
        for send in dropped:
            send.drop()

    def drop(self) -> None:
        """Drop everything: the transaction was rolled back, or its end is unknown."""
        self.roll_back_to(0)
        kept, self._kept = self._kept, []
        put, self._put = self._put, []
        # A commit whose answer was lost looks like a failed one.
        for deferred in (*kept, *(deferred for one in put for deferred in one.deferred)):
            deferred.state = "doubtful"

    def keep(self, run: Callable[[Statement], Sequence[Sequence[Any]]]) -> None:
        """Make what is held back part of the transaction, if possible.

        For synchronous code, just before the commit.

        Args:
            run: Runs a statement in the transaction and returns a SELECT's rows.
        """
        if self._database is not None and self._sends:
            finished(self._keep(without_waiting(run), wait_blocking))

    async def keep_async(self, run: Run) -> None:
        """Like `keep`, on an event loop."""
        if self._database is not None and self._sends:
            await self._keep(run, None)

    async def _keep(self, run: Run, wait: Wait | None) -> None:
        mine = [send for send in self._sends if isinstance(send, _OWN_SENDS)]
        joining = next((send.joining for send in mine if send.joining is not None), None)
        assert self._database is not None
        if joining is not None and await joining.can_join(self._adapter, self._database, run, wait):
            claimed = self._claim(lambda send: send.joining is joining)
            self._put.append(put := _Put(joining, claimed))
            await put.put(run)
            return
        kept = self._claim(lambda send: send.outbox is not None)
        self._kept += kept
        if kept and kept[0].outbox is not None:
            for statement in kept[0].outbox.insertion([deferred.outgoing for deferred in kept]):
                await run(statement)

    def _claim(self, is_wanted: Callable[[Deferred | _Shares], bool]) -> list[Deferred]:
        """Claim the wanted sends that are held back; the others stay."""
        sends, self._sends = self._sends, []
        claimed: list[Deferred] = []
        for send in sends:
            if not isinstance(send, _OWN_SENDS) or not is_wanted(send):
                self._sends.append(send)
            elif (deferred := send.claim()) is not None:
                claimed.append(deferred)
        return claimed

    def send(self) -> None:
        """Send everything after the commit, as `send_together` does."""
        for put in self._committed():
            put.joining.tell_put_blocking(put.messages)
        self._send_kept()
        if sends := self._taken():
            send_together(sends)

    async def send_async(self) -> None:
        """Send everything after the commit, as `send_together_async` does."""
        for put in self._committed():
            put.joining.tell_put(put.messages)
        self._send_kept()
        if sends := self._taken():
            await send_together_async(sends)

    def _committed(self) -> list[_Put]:
        """The messages that the transaction has put, now that the broker has them."""
        puts, self._put = self._put, []
        for put in puts:
            put.note_committed()
        return puts

    def _send_kept(self) -> None:
        kept, self._kept = self._kept, []
        for deferred in kept:
            deferred.state = "kept"
        if kept and self._database is not None and kept[0].outbox is not None:
            messages = [deferred.outgoing for deferred in kept]
            kept[0].outbox.send_soon(
                self._adapter, self._database, messages, lambda standing: learn(kept, standing)
            )

    def _taken(self) -> list[DeferredSend]:
        # Empty it first: an ORM may end a transaction twice if its commit callback raises.
        sends, self._sends = self._sends, []
        return sends
