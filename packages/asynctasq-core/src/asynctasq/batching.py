"""Batches: many calls that are followed as one.

Owns the order of a dispatch: what the batch is stands in the broker before the first of its calls
can run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .app import App, current
from .errors import ConfigurationError
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
from .sending.portal import portal
from .sending.preparing import chain_link
from .sending.progress import Progress
from .tasks.call import Call, Dispatchable, Following, links
from .wire.flow import BatchPlace, ChainLink, following_id
from .wire.message import new_id

#: What may follow a batch.
Follower = Dispatchable[Any] | Callable[[list[Any]], Dispatchable[Any]]


class Batch:
    """Many calls that are followed as one: what comes when all are done, and when one fails.

    A call with others that follow it counts as one, and so does a batch in a batch.

    Args:
        calls: At least one.
        then: What is called once all are done: a call, or a task that takes a list of what they
            returned, in their order; `None` for a batch in it, and for a call that was skipped.
        catch: A call that is made once, when the first has failed for good. A call that failed
            and is retried from the dead letters counts again: when all are done then, `then`
            comes.
        queue: Where the broker keeps how far it has come; by default the queue of the first call.
    """

    def __init__(
        self,
        calls: Iterable[Dispatchable[Any] | Batch],
        *,
        then: Follower | None = None,
        catch: Dispatchable[Any] | None = None,
        queue: str | None = None,
    ) -> None:
        self.calls = [*calls]
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

        What waits for a commit waits for it, as with `Call.dispatch`.

        Raises:
            SerializationError: An argument cannot travel; nothing is sent then.
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
        queue: Where the broker keeps how far it has come.
        children: Of its calls, in order, those of batches in it among them; empty for a handle
            made from an id.
        then: Of the call that is made once all are done.
        catch: Of the call that is made when the first has failed.
    """

    id: str
    queue: str
    _app: App = field(repr=False)
    children: list[TaskHandle[Any]] = field(default_factory=list, repr=False)
    then: TaskHandle[Any] | None = field(default=None, repr=False)
    catch: TaskHandle[Any] | None = field(default=None, repr=False)

    async def progress(self) -> Progress | None:
        """How many calls are done, of how many; `note` says how many have failed.

        Returns:
            `None` for a batch of which nothing is known, or not any more.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        found = await self._read()
        if found is None:
            return None
        spec, counts = found
        failed = counts.failed.bit_count()
        note = f"{failed} failed" if failed else ""
        return Progress(counts.done.bit_count(), spec.total, note)

    def progress_sync(self) -> Progress | None:
        """`progress` for synchronous code."""
        return portal.run(self.progress())

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

    async def cancel(self, *, running: bool = True) -> int:
        """Cancel those of `children` that have not ended; what comes after does not come then.

        Args:
            running: Also end those that run.

        Returns:
            How many were removed, or are being ended.
        """
        count = 0
        for child in self.children:
            count += await child.cancel(running=running)
        return count

    def cancel_sync(self, *, running: bool = True) -> int:
        """`cancel` for synchronous code."""
        return portal.run(self.cancel(running=running))

    async def _read(self) -> tuple[BatchSpec, BatchCounts] | None:
        broker, keys = self._app.remembering("a batch"), self._app.config.signing_key
        value = await broker.value(self.queue, BATCH, self.id)
        if value is None:
            return None
        spec = decode_spec(value, self.id, keys)
        kept = await broker.value(self.queue, COUNTS, self.id)
        return spec, decode_counts(kept, self.id, spec.total, keys)


@dataclass(slots=True)
class _Laid:
    """A batch laid out: its calls, each with its place, and what it and those in it are."""

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
    """What travels of a call that follows a batch.

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
