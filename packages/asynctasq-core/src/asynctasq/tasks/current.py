"""The run that the current code belongs to, and what a task can ask about it.

It is a context variable, so that coroutines, `asyncio.to_thread` and the threads of `def` tasks all
see the run that they are part of.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..wire.message import Message


class WaitingRuns(Protocol):
    """Counts runs that wait for other calls' results; called in any thread."""

    def began(self, run: object, queue: str) -> None:
        """A run starts to wait for a result from this queue."""

    def ended(self, run: object, queue: str) -> None:
        """A run no longer waits for that result."""


@dataclass(slots=True)
class Run:
    """One run of a task.

    Attributes:
        message: The message being run; `None` for work that serves several runs at once.
        threads: Unfinished work that it handed to executors; `None` if it never handed over any.
        waiting: Notified when the run waits for another call's result; `None` outside a worker.
    """

    message: Message | None
    threads: set[Future[Any]] | None = field(default=None, kw_only=True)
    waiting: WaitingRuns | None = field(default=None, kw_only=True)


current_run: ContextVar[Run] = ContextVar("asynctasq_run")

#: Whether the caller waits for the runs here, as with `Call.execute` and in tests; in a worker no
#: one does.
caller_waits: ContextVar[bool] = ContextVar("asynctasq_caller_waits", default=False)


def runs_for_caller() -> bool:
    """Whether the code that asked for this run waits for it in this process.

    If so, the run may share the caller's resources, such as an open transaction. This is so under
    `Call.execute()` and in tests, never in a worker.
    """
    return caller_waits.get()


def current_message() -> Message:
    """The message of the running task: its id, attempt and headers.

    Raises:
        LookupError: No task is running here.
    """
    run = current_run.get(None)
    message = None if run is None else run.message
    if message is None:
        raise LookupError("no task is running here")
    return message


@contextmanager
def awaiting_result(queue: str) -> Iterator[None]:
    """Wrap the wait for the result of a call on `queue`, so that the worker knows about it."""
    run = current_run.get(None)
    if run is None or run.waiting is None:
        yield
        return
    run.waiting.began(run, queue)
    try:
        yield
    finally:
        run.waiting.ended(run, queue)
