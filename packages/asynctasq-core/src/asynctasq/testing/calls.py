"""Shows a test the calls that were dispatched, and runs them.

Owns the rule that a test never waits for real time: it moves the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from .. import app
from ..events import RunFailed, listen, unlisten
from ..tasks.current import caller_waits
from .clock import Clock
from .running import Queues, TestWorker
from .sent import AnyTask, Sent, as_sent, read, shown, task_of

R = TypeVar("R")


class Calls:
    """The calls that the application under test dispatches while this is entered.

    `with Calls() as calls:` replaces the broker that the application has configured, or configures
    meanwhile, with one in the process's memory whose queues are empty. Arguments are encoded and
    rows fetched afresh, as always, but nothing runs before `run`.

    In pytest use the fixture `asynctasq_calls`; in `unittest`, `self.enterContext(Calls())`.
    """

    def __init__(self) -> None:
        self._clock = Clock()
        self._queues = Queues(self._clock)
        self._failures: list[RunFailed] = []
        self._entered = ExitStack()

    def __enter__(self) -> Calls:
        self._entered.enter_context(app.broker_instead(self._queues.open))
        return self

    def __exit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._entered.close()

    # --- what was dispatched ------------------------------------------------------------

    def __iter__(self) -> Iterator[Sent[Any]]:
        """Every call that the broker was given, in order, including those that have run."""
        return iter([read(outgoing) for outgoing in self._queues.put])

    def __len__(self) -> int:
        return len(self._queues.put)

    def of(self, task: AnyTask[R]) -> list[Sent[R]]:
        """The calls of one task, in order."""
        wanted = task_of(task)
        return [sent for sent in self if sent.task is wanted]

    def one(self, task: AnyTask[R], /, *args: Any, **kwargs: Any) -> Sent[R]:
        """The one call of a task with these arguments; arguments not named may be anything.

        A model instance stands for its row: two instances of one row are equal.

        Raises:
            AssertionError: There is none, or more than one; says what was dispatched.
            TypeError: The task has no such parameter.
        """
        wanted = task_of(task)
        arguments = as_sent(wanted, args, kwargs)
        found = [sent for sent in self.of(task) if sent.has(arguments)]
        if len(found) == 1:
            return found[0]
        many = f"{len(found)} such calls" if found else "no such call"
        raise AssertionError(
            f"{many} was dispatched: {wanted.name}({shown(arguments)}); {self._said()}"
        )

    def _said(self) -> str:
        lines = [f"\n  {sent}" for sent in self]
        return "dispatched were" + "".join(lines) if lines else "nothing was dispatched"

    # --- running ------------------------------------------------------------------------

    async def run(
        self, later: float | timedelta = 0, *, concurrency: int = 1, raising: bool = True
    ) -> None:
        """Run what is due, and what that dispatches, until nothing is left.

        Args:
            later: Move the clock by this many seconds and run everything due until then, each call
                at its time: delayed calls and retries. `math.inf` runs until nothing is left.
            concurrency: How many run at once; by default one after the other, in order.
            raising: Whether to raise the error of a call that will not run again, once the rest has
                run.

        Raises:
            BaseException: The error of the one call that failed for good.
            BaseExceptionGroup: The errors of several such calls.
        """
        seconds = later.total_seconds() if isinstance(later, timedelta) else later
        self._clock.until = self._clock() + seconds
        token = caller_waits.set(True)
        listen(self._note, RunFailed)
        try:
            # It ends once all listeners have heard of its last run.
            await TestWorker(concurrency=concurrency, burst=True).run()
        finally:
            unlisten(self._note)
            caller_waits.reset(token)
        self._clock.move_to(self._clock.until)
        failures, self._failures = self._failures, []
        if raising:
            _raise(failures)

    def run_sync(
        self, later: float | timedelta = 0, *, concurrency: int = 1, raising: bool = True
    ) -> None:
        """`run` for synchronous tests."""
        asyncio.run(self.run(later, concurrency=concurrency, raising=raising))

    def _note(self, event: RunFailed) -> None:
        if not event.will_retry:
            self._failures.append(event)


def _raise(failures: list[RunFailed]) -> None:
    errors = [e.error or RuntimeError(f"{e.task}: {e.reason}") for e in failures]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("calls failed", errors)
