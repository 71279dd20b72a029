"""Sending: from a call to bytes on a queue, now or when a transaction has committed.

Owns two rules. Calls dispatched at the same time on one event loop share a round trip. A call whose
row is not committed yet is not sent before the commit, and not at all after a rollback.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from time import time
from typing import TYPE_CHECKING, Any, Protocol

from ..brokers import Broker, Outgoing
from ..errors import (
    BrokerUnavailable,
    ConfigurationError,
    PayloadTooLarge,
    SerializationError,
)
from ..wire.encoding import encode_arguments
from ..wire.message import Message, new_id

if TYPE_CHECKING:
    from ..adapters.plugins import Adapter
    from ..app import App
    from ..tasks.task import Call


class DeferredSend(Protocol):
    """A dispatch that waits for a transaction; exactly one of its three ends is used once."""

    def __call__(self) -> None:
        """Send now and block until the broker has the message; usable in any thread."""

    async def send_async(self) -> None:
        """Send now, from a running event loop."""

    def drop(self) -> None:
        """Forget it: the transaction, or the savepoint it belongs to, was rolled back."""


@dataclass(slots=True)
class Prepared:
    """A call as bytes, and what its dispatch has to wait for."""

    outgoing: Outgoing
    result_ttl: float | None
    defer: Callable[[DeferredSend], None] | None = None


def prepare(call: Call[Any], app: App) -> Prepared:
    """Encode a call and find the transaction that it has to wait for.

    Raises:
        SerializationError: An argument cannot travel.
        PayloadTooLarge: The message is larger than `max_payload_bytes`.
    """
    task, config = call.task, app.config
    options = call.options(config.task_defaults)
    try:
        encoded = encode_arguments(
            call.args, call.kwargs, task.parameter_names, app.adapters.owner_of, task.hints[0].tags
        )
    except SerializationError as e:
        raise _with_adapters_that_failed(e, app) from e.__cause__
    message = Message(
        new_id(), task.name, encoded.payload, time(), 1, call.overrides or {}, call.headers or {}
    )
    body = message.encode(config.signing_key)
    if len(body) > config.max_payload_bytes:
        raise PayloadTooLarge(
            f"call of {task.name}: {len(body)} bytes encoded, more than max_payload_bytes "
            f"({config.max_payload_bytes}); put large data where the task can fetch it"
        )
    outgoing = Outgoing(call.queue or options.queue, message.id, body, call.due)
    prepared = Prepared(outgoing, options.result_ttl)
    if call.wait_for is not False and (call.wait_for is not None or encoded.models):
        prepared.defer = _what_to_wait_for(call.wait_for, encoded.models, app)
    return prepared


def _with_adapters_that_failed(error: SerializationError, app: App) -> SerializationError:
    """The error; where nobody knows the value's type, with those who perhaps would have."""
    failures = app.adapters.failures()
    if type(error) is not SerializationError or not failures:
        return error
    return SerializationError(f"{error.problem}; {failures}", error.path)


def _what_to_wait_for(
    wait_for: object, models: Sequence[tuple[Any, object]], app: App
) -> Callable[[DeferredSend], None] | None:
    """What registers a send with the open transactions that the call depends on."""
    if wait_for is not None and wait_for is not True:
        return _given_transaction(wait_for, app)
    pending = [
        _after_commit(adapter, obj)
        for adapter, obj in models
        if adapter.is_pending_write is not None and adapter.is_pending_write(obj)
    ]
    if pending:
        return pending[0] if len(pending) == 1 else _after_all(pending)
    if wait_for is True:
        for adapter in app.adapters.with_hook("open_transaction"):
            target = adapter.open_transaction()  # type: ignore[misc]
            if target is not None:
                return _after_commit(adapter, target)
    return None


def _given_transaction(target: object, app: App) -> Callable[[DeferredSend], None]:
    for adapter in app.adapters.with_hook("owns_transaction"):
        if adapter.owns_transaction(target):  # type: ignore[misc]
            return _after_commit(adapter, target)
    raise ConfigurationError(
        f"on_commit({type(target).__qualname__}): no installed adapter knows such a session, "
        f"connection or alias"
    )


def _after_commit(adapter: Adapter, obj: object) -> Callable[[DeferredSend], None]:
    if adapter.after_commit is None:
        raise ConfigurationError(f"adapter {adapter.name!r} cannot wait for a commit")
    hook = adapter.after_commit
    return lambda send: hook(obj, send)


def _after_all(
    registrations: Sequence[Callable[[DeferredSend], None]],
) -> Callable[[DeferredSend], None]:
    """One registration for several: instances may have been written in several transactions."""

    def register(send: DeferredSend) -> None:
        shares = _Shares(send, len(registrations))
        for registration in registrations:
            registration(shares)

    return register


@dataclass(slots=True)
class _Shares:
    """A send that waits for several transactions: the last commit sends, any rollback drops."""

    send: DeferredSend
    missing: int

    def __call__(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.send()

    async def send_async(self) -> None:
        """A transaction has committed; send if it was the last."""
        self.missing -= 1
        if self.missing == 0:
            await self.send.send_async()

    def drop(self) -> None:
        """A transaction was rolled back."""
        self.send.drop()


@dataclass(slots=True)
class Deferred:
    """The `DeferredSend` of one dispatch.

    Attributes:
        state: `"waiting"`, then `"dropped"`, `"cancelled"` or `"sending"`, and after that `"sent"`
            or `"failed"` (the broker may have it all the same); the handle shows it.
    """

    app: App
    outgoing: Outgoing
    state: str = "waiting"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> None:
        if self._became("sending"):
            with self._outcome():
                self.app.put_blocking(self.outgoing)

    async def send_async(self) -> None:
        """Send now, from a running event loop."""
        if self._became("sending"):
            with self._outcome():
                await self.app.outbox().put([self.outgoing])

    def drop(self) -> None:
        """Forget it."""
        self._became("dropped")

    def cancel(self) -> bool:
        """Forget it, since whoever dispatched it says so; whether it was still waiting."""
        return self._became("cancelled")

    def _became(self, state: str) -> bool:
        """Stop waiting, which only the first of all threads does."""
        with self._lock:
            is_first = self.state == "waiting"
            self.state = state if is_first else self.state
        return is_first

    @contextmanager
    def _outcome(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.state = "failed"
            raise
        self.state = "sent"


@dataclass(slots=True, eq=False)
class _Put:
    """Messages on their way, and who waits for them.

    Attributes:
        deadline: When whoever waits is told that it took too long, by the clock of the event loop.
    """

    messages: Sequence[Outgoing]
    future: asyncio.Future[None]
    deadline: float


@dataclass(slots=True)
class Outbox:
    """Collects what is put while a round trip is under way, and sends it in the next one.

    Belongs to one event loop. What is put in one iteration of the loop goes out together. A round
    trip is bounded by the broker; what waits for one has its time from when it was put.
    """

    broker: Broker
    _waiting: list[_Put] = field(default_factory=list)
    _under_way: list[_Put] = field(default_factory=list)
    _sending: asyncio.Task[None] | None = None
    _expiring: asyncio.TimerHandle | None = None

    def put(self, messages: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Hand over messages; the future is done when the broker has them.

        It raises `BrokerUnavailable` after `Broker.timeout_seconds`; messages that still wait for
        another round trip are not sent then.
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

    async def _send(self, batch: list[_Put]) -> None:
        error: BaseException | None = None
        try:
            await self.broker.put([message for put in batch for message in put.messages])
        except BaseException as e:  # noqa: BLE001 - whoever dispatched gets it
            error = e
        for put in batch:
            if put.future.done():  # whoever waited was cancelled, or told that it took too long
                continue
            if error is None:
                put.future.set_result(None)
            else:
                put.future.set_exception(error)
        if isinstance(error, asyncio.CancelledError):
            raise error

    def _expire(self) -> None:
        """Tell those whose time is over; what was not sent yet is not sent any more."""
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
