"""The run that the code here belongs to: what a task may ask of it, and what it leaves behind.

A context variable, so that coroutines, `asyncio.to_thread` and the threads of `def` tasks all see
the run that they are part of.
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
    """Whoever counts the runs that wait for the results of others; called in any thread."""

    def began(self, run: object, queue: str) -> None:
        """A run waits for a result of this queue."""

    def ended(self, run: object, queue: str) -> None:
        """A run no longer waits for that result."""


@dataclass(slots=True)
class Run:
    """One run of a task.

    Attributes:
        message: What it runs; `None` for what a worker does for several runs at once.
        threads: What it handed to executors and has not ended yet; `None` if it never did.
        waiting: Told when the run waits for another's result; `None` outside of a worker.
    """

    message: Message | None
    threads: set[Future[Any]] | None = field(default=None, kw_only=True)
    waiting: WaitingRuns | None = field(default=None, kw_only=True)


current_run: ContextVar[Run] = ContextVar("asynctasq_run")

#: Whether whoever wants the runs here waits for them, as `Call.execute` and tests do; nobody waits
#: for a worker.
caller_waits: ContextVar[bool] = ContextVar("asynctasq_caller_waits", default=False)


def runs_for_caller() -> bool:
    """Whether the code that asked for this run waits for it, in this process.

    Then the run may share what is the caller's, such as an open transaction: `Call.execute()` and
    tests run so, a worker never.
    """
    return caller_waits.get()


def current_message() -> Message:
    """The message of the task that is running here: its id, attempt and headers.

    Raises:
        LookupError: No task is running here.
    """
    message = current_run.get().message
    if message is None:
        raise LookupError("no task is running here")
    return message


@contextmanager
def awaiting_result(queue: str) -> Iterator[None]:
    """Round the wait for the result of a call on `queue`, so that the worker knows of it."""
    run = current_run.get(None)
    if run is None or run.waiting is None:
        yield
        return
    run.waiting.began(run, queue)
    try:
        yield
    finally:
        run.waiting.ended(run, queue)
