"""Batches: many calls tracked as one.

Owns the order of a dispatch: the broker holds the description of the batch before any of its calls
can run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .app import App, current
from .errors import ConfigurationError
from .listing import cancel_those
from .sending.batch_values import (
    BATCH,
    COUNTS,
    UNTOUCHED_SECONDS,
    BatchCounts,
    BatchSpec,
    decode_counts,
    decode_spec,
)
from .sending.handle import TaskHandle
from .sending.listing import CallInfo
from .sending.portal import portal
from .sending.preparing import chain_link
from .sending.progress import Progress
from .sending.watching import WOKEN_SECONDS, iterated
from .tasks.call import Call, Dispatchable, Following, as_call, links
from .wire.flow import BatchPlace, ChainLink, following_id
from .wire.message import new_id

#: Number of calls to cancel at the same time.
_CANCELLED_AT_ONCE = 50

#: What may follow a batch.
Follower = Dispatchable[Any] | Callable[[list[Any]], Dispatchable[Any]]


class Batch:
    """Many calls tracked as one: what to call when all are done, and when one fails.

    A call counts as one together with the calls that follow it, and so does a batch in a batch.

    Args:
        calls: At least one.
        then: What to call once all are done: a call, or a task that takes a list of what they
            returned, in their order; `None` for a batch among them, and for a skipped call.
        catch: A call to make once, when the first call has failed for good. A failed call that is
            retried from the dead letters counts again: once all are done, `then` is called.
        queue: The queue under which the broker keeps the progress; by default that of the first
            call.
    """

    def __init__(
        self,
        calls: Iterable[Dispatchable[Any] | Batch],
        *,
        then: Follower | None = None,
        catch: Dispatchable[Any] | None = None,
        queue: str | None = None,
    ) -> None:
        if isinstance(calls, Dispatchable):
            raise TypeError("a batch takes a list of calls, not one call")
        self.calls = [*calls]
        for member in self.calls:
            if not isinstance(member, Batch):
                as_call(member, "a batch")
        self.then = then
        self.catch = catch
        self.queue = queue
        if not self.calls:
            raise ValueError("a batch has at least one call")
        self._then = _one_link(then) if then is not None else None
        self._catch = _one_link(catch) if catch is not None else None
        if self._catch is not None and self._catch.takes_result:
            raise TypeError("catch= takes a call, not a task")

    async def dispatch(self) -> BatchHandle:
        """Put all calls on their queues, in order.

        Calls that have to wait for a commit do so, as with `Call.dispatch`.

        Raises:
            SerializationError: An argument cannot travel; nothing has been sent.
            ConfigurationError: The broker cannot keep batches.
            BrokerUnavailable: The broker did not take them all; some may have been added.
        """
        app = current()
        laid = _lay_out(app, self, None)
        for queue, batch_id, spec in laid.specs:
            await _keep(app, queue, batch_id, spec)
        return laid.handle(await app.dispatch_many(laid.calls))

    def dispatch_sync(self) -> BatchHandle:
        """`dispatch` for synchronous code: blocks until the broker has the calls."""
        app = current()
        laid = _lay_out(app, self, None)
        for queue, batch_id, spec in laid.specs:
            portal.run(_keep(app, queue, batch_id, spec))
        return laid.handle(app.dispatch_many_sync(laid.calls))

    @staticmethod
    def handle(batch_id: str, queue: str = "default") -> BatchHandle:
        """The handle of a batch that was dispatched earlier, perhaps by another process.

        Args:
            batch_id: The id that its handle had.
            queue: The queue that its handle had.
        """
        return BatchHandle(batch_id, queue, current())


@dataclass(slots=True, eq=False)
class BatchHandle:
    """What dispatching a batch returns.

    Attributes:
        id: The batch's id.
        queue: The queue under which the broker keeps the progress.
        children: Handles of its calls, in order, including those of batches in it; empty for a
            handle made from an id.
        then: Handle of the call made once all are done.
        catch: Handle of the call made when the first has failed.
    """

    id: str
    queue: str
    _app: App = field(repr=False)
    children: list[TaskHandle[Any]] = field(default_factory=list, repr=False)
    then: TaskHandle[Any] | None = field(default=None, repr=False)
    catch: TaskHandle[Any] | None = field(default=None, repr=False)
    _outer: dict[tuple[str, str], BatchPlace | None] = field(default_factory=dict, repr=False)

    async def progress(self) -> Progress | None:
        """How many calls are done, and of how many; `note` says how many have failed.

        Returns:
            `None` for a batch that is not known, or no longer.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        found = await self._read()
        return None if found is None else _progress(*found)

    def progress_sync(self) -> Progress | None:
        """`progress` for synchronous code."""
        return portal.run(self.progress())

    async def watch(self) -> AsyncGenerator[Progress, None]:
        """Iterate over the batch's progress, from now on, until all its calls are done or failed.

        Each change wakes it. Ends at once for a batch that is not known, or no longer.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        last: Progress | None = None
        while True:
            broker = self._app.remembering("a batch")
            known = await broker.value(self.queue, COUNTS, self.id)
            if (found := await self._read()) is None:
                return
            spec, counts = found
            if (update := _progress(spec, counts)) != last:
                yield update
            last = update
            if (counts.done | counts.failed).bit_count() == spec.total:
                return
            await broker.changed_value(self.queue, COUNTS, self.id, known, WOKEN_SECONDS)

    def watch_sync(self) -> Iterator[Progress]:
        """`watch` for synchronous code."""
        return iterated(self.watch())

    async def failed(self) -> list[int]:
        """Places in the batch, from 0, of the calls that have failed for good.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        found = await self._read()
        if found is None:
            return []
        spec, counts = found
        return [i for i in range(spec.total) if counts.failed >> i & 1]

    def failed_sync(self) -> list[int]:
        """`failed` for synchronous code."""
        return portal.run(self.failed())

    async def cancel(self, *, running: bool = True) -> int:
        """Cancel its calls that have not ended; they count as failed, so `catch` is called.

        A handle made from an id has to search all calls for them, and always ends running ones.

        Args:
            running: Also end running calls.

        Returns:
            How many were removed, or are being ended.

        Raises:
            ConfigurationError: The broker cannot reach running calls, or cannot list its calls.
            BrokerUnavailable: The broker cannot be reached; some may have been cancelled.
        """
        if not self.children:
            return await cancel_those(self._has_call)
        count = 0
        for first in range(0, len(self.children), _CANCELLED_AT_ONCE):
            some = self.children[first : first + _CANCELLED_AT_ONCE]
            count += sum(await asyncio.gather(*(child.cancel(running=running) for child in some)))
        return count

    def cancel_sync(self, *, running: bool = True) -> int:
        """`cancel` for synchronous code."""
        return portal.run(self.cancel(running=running))

    async def _has_call(self, call: CallInfo) -> bool:
        """Whether a call is part of this batch, or of a batch in it."""
        place = call.place
        while place is not None and place.id != self.id:
            key = (place.queue, place.id)
            if key not in self._outer:
                found = await BatchHandle(place.id, place.queue, self._app)._read()
                self._outer[key] = found[0].place if found else None
            place = self._outer[key]
        return place is not None

    async def _read(self) -> tuple[BatchSpec, BatchCounts] | None:
        broker, keys = self._app.remembering("a batch"), self._app.config.signing_key
        value = await broker.value(self.queue, BATCH, self.id)
        if value is None:
            return None
        spec = decode_spec(value, self.id, keys)
        kept = await broker.value(self.queue, COUNTS, self.id)
        return spec, decode_counts(kept, self.id, spec.total, keys)


def _progress(spec: BatchSpec, counts: BatchCounts) -> Progress:
    failed = counts.failed.bit_count()
    note = f"{failed} failed" if failed else ""
    return Progress(counts.done.bit_count(), spec.total, note)


@dataclass(slots=True)
class _Laid:
    """A batch laid out: its calls with their places, and descriptions of it and batches in it."""

    app: App
    id: str
    queue: str
    calls: list[Call[Any]]
    specs: list[tuple[str, str, BatchSpec]]
    then: Call[Any] | None
    catch: Call[Any] | None

    def handle(self, children: list[TaskHandle[Any]]) -> BatchHandle:
        """The batch's handle."""
        handle = BatchHandle(self.id, self.queue, self.app, children)
        if self.then is not None:
            handle.then = self.app.handle_of(self.then, following_id(self.id))
        if self.catch is not None:
            handle.catch = self.app.handle_of(self.catch, following_id(f"{self.id} catch"))
        return handle


def _lay_out(app: App, batch: Batch, place: BatchPlace | None) -> _Laid:
    app.need_remembering("a batch")
    batch_id, queue = new_id(), batch.queue or _queue_of(app, batch)
    then, catch = (_travelling(app, link) for link in (batch._then, batch._catch))
    collects = then is not None and then.takes_result
    spec = BatchSpec(len(batch.calls), then, catch, place)
    calls: list[Call[Any]] = []
    specs = [(queue, batch_id, spec)]
    for index, member in enumerate(batch.calls):
        its_place = BatchPlace(queue, batch_id, index, collects)
        if isinstance(member, Batch):
            inner = _lay_out(app, member, replace(its_place, is_collected=False))
            calls += inner.calls
            specs += inner.specs
        else:
            calls.append(member._as_call()._changed(place=its_place))
    return _Laid(
        app,
        batch_id,
        queue,
        calls,
        specs,
        batch._then.call if batch._then is not None else None,
        batch._catch.call if batch._catch is not None else None,
    )


def _queue_of(app: App, batch: Batch) -> str:
    first = batch.calls[0]
    if isinstance(first, Batch):
        return first.queue or _queue_of(app, first)
    call = first._as_call()
    return call.queue or call.options(app.config.task_defaults).queue


def _one_link(following: Any) -> Following:
    found = links(following, (), {})
    if len(found) != 1:
        raise TypeError("what follows a batch is one call, not a chain")
    return found[0]


def _travelling(app: App, link: Following | None) -> ChainLink | None:
    """The call that follows a batch, in the form in which it travels.

    Raises:
        ConfigurationError: An argument was written in a transaction that is still open.
    """
    if link is None:
        return None
    made, models = chain_link(link, app.config, app.adapters)
    for adapter, obj in models:
        if adapter.is_pending_write is not None and adapter.is_pending_write(obj):
            raise ConfigurationError(
                f"call of {link.call.task.name}: what follows a batch takes no instance whose "
                f"transaction is still open; dispatch the batch after the commit"
            )
    return made


async def _keep(app: App, queue: str, batch_id: str, spec: BatchSpec) -> None:
    value = spec.encode(batch_id, app.config.signing_key)
    broker = app.remembering("a batch")
    await broker.set_value(queue, BATCH, batch_id, value, ttl_seconds=UNTOUCHED_SECONDS)
