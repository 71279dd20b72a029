"""Threads for Django's ORM, each with its own connections, lent to one task at a time.

Django keeps one connection per thread, and asgiref sends all ORM calls of async code to a single
thread of the process. Here each task has a thread to itself while it runs, so that queries of
different tasks run side by side. Threads are reused, so there are never more connections than tasks
running at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Token
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import Error, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Connecting takes about as long as fetching a batch, so successive batches share a connection.
_LINGER_SECONDS = 1.0


def tidy(kept: Sequence[str] = ()) -> None:
    """Clean up this thread as Django does after a request, and undo what a task left open.

    Args:
        kept: Aliases whose open transaction belongs to somebody else and stays.
    """
    reset_queries()
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block and connection.alias in kept:
            continue
        try:
            connection.close_if_unusable_or_obsolete()
        except Error:
            # Only logged: the task has ended, and this must not change its outcome.
            logger.exception("cannot close a connection", extra={"alias": connection.alias})
            del connections[connection.alias]
        else:
            if connection.in_atomic_block:
                del connections[connection.alias]


class Lane(ThreadPoolExecutor):
    """One thread, started on first use.

    Attributes:
        last: The last call submitted since the lane was lent; `None` while it is unused.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="asynctasq-django")
        self.last: Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call after those submitted before it."""
        if self.last is None:
            super().submit(tidy)
        future = super().submit(fn, *args, **kwargs)
        self.last = future
        return future

    def stop_lingering(self) -> None:
        """Reuse the connection, after checking it if its time was up.

        The timer belongs to the event loop that used the lane last, which may have stopped since.
        """
        if self.timer is not None:
            self.timer.cancel()
            if time.monotonic() >= self.timer.when() and not self.busy:
                self.last = None
            self.timer = None

    @property
    def busy(self) -> bool:
        """Whether a call is still running, such as one in which a task was cancelled."""
        return self.last is not None and not self.last.done()


class LaneContext(ThreadSensitiveContext):
    """While entered, asgiref sends thread-sensitive calls to the lane."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self.lane = lane
        self._entered: Token[ThreadSensitiveContext] | None = None

    def enter(self) -> None:
        """Enter, in the asyncio task whose calls should go to the lane."""
        self._entered = SyncToAsync.thread_sensitive_context.set(self)
        SyncToAsync.context_to_thread_executor[self] = self.lane

    def leave(self) -> None:
        """Leave, in the same asyncio task."""
        SyncToAsync.context_to_thread_executor.pop(self, None)
        if self._entered is not None:
            SyncToAsync.thread_sensitive_context.reset(self._entered)


_idle: deque[Lane] = deque()
_kept: dict[BaseDatabaseWrapper, threading.Thread] = {}
_loaders: deque[Lane] = deque()


def borrow() -> Lane:
    """A lane that nobody uses."""
    try:
        return _idle.pop()
    except IndexError:
        return Lane()


async def give_back(lane: Lane) -> None:
    """Close what the lane need not keep, then let others use it; never waits for a busy lane."""
    if lane.last is None:
        _idle.append(lane)
        return
    busy = lane.busy
    tidied = lane.submit(tidy)
    tidied.add_done_callback(lambda _: _reuse(lane))
    if not busy:
        await asyncio.shield(asyncio.wrap_future(tidied))


def _reuse(lane: Lane) -> None:
    lane.last = None
    _idle.append(lane)


async def call_loader(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a query that belongs to no task, on a connection kept for a moment afterwards."""
    lane = take_loader()
    context = LaneContext(lane)
    context.enter()
    try:
        return await sync_to_async(function)(*args, **kwargs)
    except BaseException:
        if lane.last is not None:
            lane.submit(tidy)
        raise
    finally:
        context.leave()
        give_back_loader(lane)


def take_loader() -> Lane:
    """A lane for queries that belong to no task."""
    try:
        lane = _loaders.pop()
    except IndexError:
        lane = Lane()
    lane.stop_lingering()
    return lane


def give_back_loader(lane: Lane) -> None:
    """Let others use the lane, and keep its connection open for a moment."""
    if lane.last is not None and not lane.busy:
        loop = asyncio.get_running_loop()
        lane.timer = loop.call_later(_LINGER_SECONDS, lane.submit, tidy)
    _loaders.append(lane)


async def close_lanes() -> None:
    """Close the connections of unused lanes and end their threads; also close what `keep` noted."""
    ending: list[Lane] = []
    for pool in (_idle, _loaders):
        while pool:
            ending.append(pool.pop())
    for lane in ending:
        lane.stop_lingering()
        if lane._threads:
            lane.submit(connections.close_all)
    await asyncio.to_thread(_end, ending)


def keep() -> None:
    """Remember the connections that a thread of somebody else leaves open, to close with the lanes.

    Some threads run one task and end. Their connections are closed here when the next one comes.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            _kept[connection] = threading.current_thread()
    if len(_kept) > 1:
        _close_kept(lambda thread: not thread.is_alive())


def take_back() -> None:
    """Forget what `keep` remembered about this thread, which is in use again."""
    if _kept:
        for connection in connections.all(initialized_only=True):
            _kept.pop(connection, None)


def _close_kept(is_over: Callable[[threading.Thread], bool]) -> None:
    for connection, thread in list(_kept.items()):
        if is_over(thread) and _kept.pop(connection, None) is not None:
            connection.inc_thread_sharing()
            connection.close()


def _end(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.shutdown()
    _close_kept(lambda _: True)
