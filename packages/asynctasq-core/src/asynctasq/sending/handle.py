"""The handle of a dispatched call: its id, its state, its result."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from ..adapters.fetching import fetch_result
from ..adapters.plugins import Adapters
from ..errors import ChainStopped, DispatchDropped, ResultNotKept, ResultTimeout, TaskCancelled
from ..tasks.current import awaiting_result
from ..tasks.task import Task, registry
from ..wire.results import decode_stored, encode_cancelled, error_in, read_result, references_in
from .chains import STOPPED, find_link
from .connections import Connections
from .deferred import Deferred
from .ending import RECORD_SECONDS, end, remove
from .listing import CallInfo, Reader, find
from .outbox import Outbox
from .portal import portal
from .progress import Progress
from .progress import decode as decode_progress
from .status import TaskStatus, recorded
from .watching import UNWOKEN_SECONDS, WOKEN_SECONDS, iterated, told_progress, until_news

R = TypeVar("R")


#: How long one request to the broker may wait for a result: the first, later ones, and one while
#: the call still waits for a commit, as no broker reports a rollback.
_FIRST_SECONDS, _LONGEST_SECONDS, _UNCOMMITTED_SECONDS = 1.0, 60.0, 0.25

#: How often to check whether the calls before this one go on, since their end wakes nobody.
_PARENT_SECONDS = 1.0

#: States that stop the chain: no call follows one that ended so.
_STOPPED_BY = frozenset({TaskStatus.DEAD, TaskStatus.CANCELLED, TaskStatus.DROPPED})

_DEFERRED = {
    "waiting": TaskStatus.UNCOMMITTED,
    "sending": TaskStatus.UNCOMMITTED,
    "dropped": TaskStatus.DROPPED,
    "cancelled": TaskStatus.CANCELLED,
}

#: States of a call that may still report progress.
_UNDER_WAY = frozenset(
    {TaskStatus.UNCOMMITTED, TaskStatus.WAITING, TaskStatus.DELAYED, TaskStatus.RUNNING}
)


@dataclass(slots=True, eq=False)
class TaskHandle(Generic[R]):
    """What `dispatch` returns.

    Attributes:
        id: The message's id.
        queue: The queue that it was sent to.
        task: The task, which knows the types of its result.
        result_ttl: Seconds that the result is kept; `None` for a task that keeps none.
        outbox: The application's, if it has one.
        status_ttl: Seconds that the end of a call without a result is remembered.
        is_existing: Whether it stands for an earlier call because the unique key was taken; if the
            call waited for a commit, this is known once it has been sent.
        was_sent_here: Whether this handle is what `dispatch` returned.
        shows_arguments: Whether `info` includes the call's arguments.
        parent: Handle of the call that this one follows; `None` if none is known here. A handle
            made from an id learns it from `info`, as long as the broker holds the chain.
        children: Handles of the calls that follow this one, as far as they are known here.
        told_when_cancelled: Called when the call was removed before it ran, to tell its batch.
    """

    id: str
    queue: str
    task: Task[..., R]
    result_ttl: float | None
    _connections: Connections = field(repr=False)
    _keys: Sequence[bytes] = field(repr=False)
    _adapters: Adapters = field(repr=False)
    _deferred: Deferred | None = field(default=None, repr=False)
    outbox: Outbox | None = field(default=None, kw_only=True, repr=False)
    status_ttl: float | None = field(default=None, kw_only=True)
    is_existing: bool = field(default=False, kw_only=True)
    was_sent_here: bool = field(default=False, kw_only=True, repr=False)
    shows_arguments: bool = field(default=True, kw_only=True, repr=False)
    parent: TaskHandle[Any] | None = field(default=None, kw_only=True, repr=False)
    children: list[TaskHandle[Any]] = field(default_factory=list, kw_only=True, repr=False)
    told_when_cancelled: Callable[[], Awaitable[None]] | None = field(
        default=None, kw_only=True, repr=False
    )
    _was_cancelled: bool = field(default=False, repr=False)
    _is_to_end: bool = field(default=False, repr=False)

    def __str__(self) -> str:
        return self.id

    async def status(self) -> TaskStatus:
        """Where the call is now.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        if (sending := self._sending()) in _DEFERRED:
            return _DEFERRED[sending]
        if self._was_cancelled:
            return TaskStatus.CANCELLED
        if (found := await self._told_by_broker()) is not None:
            return found
        if self.parent is not None:
            return await self._status_by_parent(self.parent)
        if sending == "failed":
            return TaskStatus.DROPPED
        if self.outbox is not None:
            is_held = await self.outbox.holds(self.id)
            if is_held:
                return TaskStatus.UNCOMMITTED
            if (found := await self._told_by_broker()) is not None:  # sent between the two checks
                return found
            if is_held is None:
                return TaskStatus.UNKNOWN
        if sending == "doubtful":
            return TaskStatus.UNKNOWN
        return TaskStatus.ENDED if self.was_sent_here else TaskStatus.UNKNOWN

    async def _told_by_broker(self) -> TaskStatus | None:
        broker = self._connections.broker()
        state = await broker.state(self.queue, self.id)
        if state is not None:
            return TaskStatus(state)
        if self._record_ttl is not None or self._is_to_end:
            stored = await broker.result(self.queue, self.id, 0)
            if stored is not None:
                return recorded(self._read(stored))
        return None

    async def _status_by_parent(self, parent: TaskHandle[Any]) -> TaskStatus:
        """Where a call is that its queue does not hold: not put yet, or gone already."""
        status = await parent.status()
        if status in _UNDER_WAY:
            return TaskStatus.WAITING
        broker = self._connections.broker()
        if (state := await broker.state(self.queue, self.id)) is not None:  # put meanwhile
            return TaskStatus(state)
        if status in _STOPPED_BY:
            return status
        if self.outbox is not None and await self.outbox.holds(self.id):
            return TaskStatus.UNCOMMITTED
        return TaskStatus.ENDED if self.was_sent_here else TaskStatus.UNKNOWN

    def status_sync(self) -> TaskStatus:
        """`status` for synchronous code."""
        return portal.run(self.status())

    async def info(self) -> CallInfo:
        """Everything known about the call: state, attempt, times, worker, error, progress.

        If the chain stopped before this call, it says where and why. Reads only the queue: builds
        no argument and fetches no row. For a handle made from an id that its queue does not hold,
        it looks through the queues for an earlier call of a chain.

        Raises:
            ConfigurationError: The broker cannot say.
            BrokerUnavailable: The broker cannot be reached.
        """
        reader = Reader(self._keys, self.shows_arguments)
        found = None
        if self._sending() not in _DEFERRED and not self._was_cancelled:
            broker = self._connections.broker()
            found = await find(broker, reader, self.id, (self.queue,))
            if found is None and self.parent is None and not self.was_sent_here:
                queues = [stats.name for stats in await broker.stats()]
                found = await find_link(broker, reader, self.id, queues)
        if found is not None:
            self._learn(found)
            return found
        info = CallInfo(self.id, self.queue, await self.status(), self.task.name)
        stopped = None if self.parent is None else await self.parent.info()
        if stopped is None or stopped.state is not TaskStatus.DEAD:
            return info
        reason = stopped.reason
        if info.state is TaskStatus.DEAD and not reason.startswith(STOPPED):
            reason = f"{STOPPED} {stopped.task} {stopped.id}: {reason}"
        return replace(info, reason=reason, error=stopped.error, traceback=stopped.traceback)

    def _learn(self, info: CallInfo) -> None:
        """Make handles of the calls before and after this one, if none are known."""
        if self.parent is None and info.parent is not None:
            queue, message_id = info.parent
            if (task := registry.get(info.parent_task)) is not None:
                self.parent = task.handle(message_id, queue=queue)
                self.parent.children.append(self)
        last: TaskHandle[Any] = self
        for link in () if self.children else info.children:
            if (task := registry.get(link.task)) is None:
                break
            last.children.append(task.handle(link.id, queue=link.queue))
            last.children[0].parent, last = last, last.children[0]

    def info_sync(self) -> CallInfo:
        """`info` for synchronous code."""
        return portal.run(self.info())

    def _sending(self) -> str:
        """The state of a dispatch that waited for a commit; `sent` if it did not."""
        return "sent" if self._deferred is None else self._deferred.state

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the task and return what it returned, or raise the error that it raised.

        The error's `__cause__` shows the worker's traceback. Its own class is used if this process
        has loaded it and it has no `__new__` of its own; otherwise `TaskFailed` is raised. Model
        instances in the result are fetched afresh, loaded as the result's annotation says.

        Args:
            timeout: Seconds to wait; `None` for as long as it takes.

        Raises:
            ResultNotKept: The task has no `result_ttl`.
            ResultTimeout: It did not finish in time; without a `timeout`, its queue no longer
                holds it and its result has expired.
            TaskCancelled: It was cancelled.
            ChainStopped: A call that it follows has failed for good.
            DispatchDropped: Its transaction was rolled back, or it could not be sent afterwards.
            TaskFailed: It failed with an error that cannot be raised again here, or the stored
                result is damaged.
            BadSignature: The stored result was not signed for this call.
            BrokerUnavailable: The broker cannot be reached.
            ReferenceGone: A row in the result has been deleted.
            ReferenceUnavailable: The database cannot return the rows in the result.
            InvalidReference: The result holds an instance of a model that is not loaded here.
        """
        if self.result_ttl is None:
            raise ResultNotKept(
                f"{self.task.name} keeps no result: declare it with @task(result_ttl=seconds)"
            )
        with awaiting_result(self.queue):
            stored = await self._stored(timeout)
        content = self._read(stored)
        if "value" in content:
            result: R = await self._value(content["value"])
            return result
        if content.get("cancelled"):
            raise TaskCancelled(f"{self._name} was cancelled")
        raise error_in(content)

    async def _value(self, stored: Any) -> Any:
        annotations = self.task.result_annotations
        refs = references_in(stored, self._name)
        rows = await fetch_result(self._adapters, annotations, refs) if refs else ()
        return decode_stored(stored, annotations.types, self._name, rows)

    def result_sync(self, timeout: float | None = None) -> R:
        """`result` for synchronous code."""
        return portal.run(self.result(timeout))

    async def _stored(self, timeout: float | None) -> bytes:
        broker = self._connections.broker()
        deadline = inf if timeout is None else monotonic() + timeout
        step = _FIRST_SECONDS
        while True:
            is_committed = self._is_committed()
            wait = min(step if is_committed else _UNCOMMITTED_SECONDS, deadline - monotonic())
            stored = await broker.result(self.queue, self.id, max(0.0, wait))
            if stored is None and self.parent is not None:
                await self._raise_if_stopped()
            if stored is None and is_committed and await self._is_unknown(timeout):
                return await self._stored_last()
            if stored is not None:
                return stored
            if monotonic() >= deadline:
                raise ResultTimeout(f"{self._name}: no result within {timeout} s")
            step = _LONGEST_SECONDS if self.parent is None else _PARENT_SECONDS

    async def _raise_if_stopped(self) -> None:
        """Raise the reason if the chain stopped before this call."""
        status = await self.status()
        if status not in _STOPPED_BY:
            return
        where: TaskHandle[Any] = self
        while where.parent is not None and await where.parent.status() is status:
            where = where.parent
        if where is self:
            return
        if status is TaskStatus.CANCELLED:
            raise TaskCancelled(f"{self._name}: {where._name}, which it follows, was cancelled")
        if status is TaskStatus.DROPPED:
            raise DispatchDropped(f"{self._name}: {where._name}, which it follows, was not sent")
        error = (await where.info()).error
        raise ChainStopped(f"{self._name}: {STOPPED} {where._name}: {error}")

    async def _is_unknown(self, timeout: float | None) -> bool:
        """Whether nothing holds the call; `False` for one that may still be sent in time."""
        if self.parent is not None:
            ended = (TaskStatus.ENDED, TaskStatus.UNKNOWN)
            return timeout is None and await self.status() in ended
        is_failed = self._sending() == "failed"
        if timeout is not None and not is_failed:
            return False
        # The outbox first: a call that has left it is in the queue.
        outbox = None if is_failed else self.outbox
        if outbox is not None and await outbox.holds(self.id) is not False:
            return False
        return await self._connections.broker().state(self.queue, self.id) is None

    async def _stored_last(self) -> bytes:
        """The result of a call that has left the queue; both happen in one step."""
        stored = await self._connections.broker().result(self.queue, self.id, 0)
        if stored is not None:
            return stored
        call = self._name
        if self._sending() == "failed":
            raise DispatchDropped(f"{call}: it could not be sent after the commit")
        raise ResultTimeout(f"{call}: its queue does not hold it, and its result has expired")

    def _is_committed(self) -> bool:
        """Whether the call no longer waits for a commit; raises after a rollback."""
        state = self._sending()
        if state == "dropped":
            raise DispatchDropped(f"{self._name}: its transaction was rolled back")
        if state == "cancelled":
            raise TaskCancelled(f"{self._name} was cancelled")
        return state in ("sent", "kept", "failed", "doubtful")

    async def cancel(self, *, running: bool = False) -> bool:
        """Remove the call if it has not started, along with the calls that follow it.

        If its turn in a chain has not come yet, the call before it is removed.

        Args:
            running: Also end it if it is running: within a second its worker cancels the coroutine,
                interrupts the thread or kills the processes. `status` is `CANCELLED` once it has
                ended; what the task had finished by then stands.

        Returns:
            Whether it was removed, or is running and was told to end; `False` if it is being sent
            after a commit, has finished or is dead, and without `running` if it is running.

        Raises:
            ConfigurationError: With `running`: the broker cannot reach running calls.
        """
        if self._deferred is not None and self._deferred.cancel():
            return True
        if self._sending() in _DEFERRED:
            return False
        broker, ttl = self._connections.broker(), self._record_ttl or 0.0
        record = encode_cancelled(self._keys, self.id)
        if await remove(broker, self.queue, self.id, record, ttl):
            self._was_cancelled = True
            if self.told_when_cancelled is not None:
                await self.told_when_cancelled()
            return True
        if self.parent is not None and await broker.state(self.queue, self.id) is None:
            return await self.parent.cancel(running=running)
        if not running:
            return False
        self._is_to_end = await end(broker, self.queue, self.id, record, ttl or RECORD_SECONDS)
        return self._is_to_end

    def cancel_sync(self, *, running: bool = False) -> bool:
        """`cancel` for synchronous code."""
        return portal.run(self.cancel(running=running))

    async def progress(self) -> Progress | None:
        """The progress that the task last reported; `None` if it reported none.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        told = await told_progress(self._connections.broker(), self.queue, self.id)
        return None if told is None else decode_progress(told)

    def progress_sync(self) -> Progress | None:
        """`progress` for synchronous code."""
        return portal.run(self.progress())

    async def watch(self) -> AsyncGenerator[Progress, None]:
        """Iterate over the task's progress, from its latest report on, until the call ends.

        Each report of the task wakes it, and so does the call's end if the task has reported
        anything or keeps its result or status; otherwise it ends within half a second. If the
        worker is killed at that moment, it ends within some seconds.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        last = None
        while True:
            is_over = await self.status() not in _UNDER_WAY
            broker = self._connections.broker()
            told = await told_progress(broker, self.queue, self.id)
            found = None if told is None else decode_progress(told)
            if found is not None and found != last:
                yield found
            last = found
            if is_over:
                return
            seconds = WOKEN_SECONDS if self._ends_woken(told) else UNWOKEN_SECONDS
            await until_news(broker, self.queue, self.id, told, seconds)

    def watch_sync(self) -> Iterator[Progress]:
        """`watch` for synchronous code."""
        return iterated(self.watch())

    def _ends_woken(self, told: bytes | None) -> bool:
        """Whether the call's end wakes those who wait for news of it, as far as can be seen."""
        is_kept = self._record_ttl is not None and self.parent is None
        return told is not None or (is_kept and self._sending() == "sent")

    def stand_for(self, existing_id: str) -> None:
        """Become the handle of a call that was there before."""
        self.id, self.is_existing = existing_id, True

    def drop(self) -> None:
        """Do not send the call if it still waits for a commit: its dispatch failed after all."""
        if self._deferred is not None:
            self._deferred.drop()

    def _read(self, stored: bytes) -> dict[str, Any]:
        return read_result(stored, self._keys, self.id, self._name)

    @property
    def _record_ttl(self) -> float | None:
        return self.status_ttl if self.result_ttl is None else self.result_ttl

    @property
    def _name(self) -> str:
        return f"{self.task.name} {self.id}"
