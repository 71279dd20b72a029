"""Fetches the rows of messages taken together, and hands over each job once its own are there.

Owns the rule that a job begins when its own rows are there: a database that does not answer holds
up only jobs that need it, and each of them no longer than its `timeout`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ..adapters.fetching import Fetched, Group, Wanted, fetch_group, grouped, unfetched
from ..adapters.plugins import Adapters
from ..errors import ReferenceUnavailable
from ..tasks.current import Run, current_run
from .jobs import Job, Key
from .threads import outlast

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Fetch:
    """One call of `fetch_many`, and the jobs that wait for it."""

    waiting: dict[Key, _Pending]
    task: asyncio.Task[None]


@dataclass(slots=True, eq=False)
class _Pending:
    """A job that still lacks some of its rows."""

    job: Job
    wanted: Wanted
    fetched: Fetched
    fetches: list[_Fetch] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Rows:
    """The rows that one worker fetches before its tasks begin.

    Args:
        ready: Called with a job once its rows are there, or it is known why they are not.
        late: Called with a job whose deadline has passed before that.
    """

    def __init__(
        self,
        adapters: Adapters,
        ready: Callable[[Job, Wanted, Fetched], None],
        late: Callable[[Job], None],
    ) -> None:
        self._adapters = adapters
        self._scopes = adapters.with_hook("fetch_scope")
        self._ready = ready
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._pending: dict[Key, _Pending] = {}
        self._tasks: dict[asyncio.Task[None], _Fetch] = {}

    def fetch(self, jobs: Sequence[tuple[Job, Wanted]]) -> None:
        """Fetch the rows of these jobs, with one call for each model."""
        all_wanted = [wanted for _, wanted in jobs]
        found = unfetched(all_wanted)
        groups = grouped(self._adapters, all_wanted, found, in_task_scope=False)
        pending = [_Pending(*job, fetched) for job, fetched in zip(jobs, found, strict=True)]
        for group in groups:
            self._start(group, found, pending)
        for one in pending:
            if not one.fetches or one.fetched.error is not None:
                self._forget(one)  # otherwise the fetch of its other rows would hand it over again
                self._hand_over(one)
                continue
            self._pending[one.job.key] = one
            if one.job.deadline is not None:
                one.timer = self._loop.call_at(one.job.deadline, self._time_out, one)

    def _start(self, group: Group, found: list[Fetched], pending: list[_Pending]) -> None:
        waiting = {pending[i].job.key: pending[i] for i, _ in group.targets}
        task = self._loop.create_task(self._fetch(group, found, waiting))
        fetch = self._tasks[task] = _Fetch(waiting, task)
        task.add_done_callback(self._tasks.pop)
        for one in waiting.values():
            one.fetches.append(fetch)

    async def _fetch(
        self, group: Group, found: list[Fetched], waiting: dict[Key, _Pending]
    ) -> None:
        run = Run(None)
        current_run.set(run)  # to keep track of the threads that do the work
        try:
            if self._scopes:
                with self._scope_of(group, waiting):
                    await fetch_group(group, found)
            else:
                await fetch_group(group, found)
        except BaseException as e:
            if isinstance(e, asyncio.CancelledError) and is_being_cancelled():
                await outlast(run)
                raise
            self._fail(waiting, e)
        for key in list(waiting):
            one = waiting.pop(key)
            one.fetches = [fetch for fetch in one.fetches if fetch.waiting is not waiting]
            if not one.fetches or one.fetched.error is not None:
                self._forget(one)
                self._hand_over(one)

    @contextmanager
    def _scope_of(self, group: Group, waiting: dict[Key, _Pending]) -> Iterator[None]:
        messages = [one.job.message for one in waiting.values()]
        with ExitStack() as stack:
            for adapter in self._scopes:
                scope = adapter.fetch_scope(group.refs[0].model, messages)  # type: ignore[misc]
                if scope is not None:
                    stack.enter_context(scope)
            yield

    def _fail(self, waiting: dict[Key, _Pending], error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            reason: Exception = ReferenceUnavailable("the query for its rows was cancelled")
        else:
            logger.error("fetching rows failed outside of any adapter", exc_info=error)
            reason = RuntimeError(f"fetching its rows failed: {error!r}")
        for one in waiting.values():
            one.fetched.error = reason

    def _hand_over(self, one: _Pending) -> None:
        self._ready(one.job, one.wanted, one.fetched)

    def _time_out(self, one: _Pending) -> None:
        self._forget(one)
        self._late(one.job)

    def _forget(self, one: _Pending) -> None:
        """Stop waiting for a job's rows, and cancel fetches that no other job waits for."""
        self._pending.pop(one.job.key, None)
        if one.timer is not None:
            one.timer.cancel()
        for fetch in one.fetches:
            del fetch.waiting[one.job.key]
            if not fetch.waiting:
                fetch.task.cancel()
        one.fetches = []

    def drop(self, key: Key) -> bool:
        """Stop fetching for a job; return whether it was waiting for rows."""
        one = self._pending.get(key)
        if one is not None:
            self._forget(one)
        return one is not None

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cancel all fetches under way; return their asyncio tasks, to be awaited."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def let_go(self) -> list[Job]:
        """After `cancel`: the jobs for which no fetch is running any more."""
        free = [o for o in self._pending.values() if all(f.task.done() for f in o.fetches)]
        for one in free:
            one.fetches = []
            self._forget(one)
        return [one.job for one in free]


def is_being_cancelled() -> bool:
    """Whether the current asyncio task was cancelled from outside, not by its own code."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
