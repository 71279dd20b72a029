"""The kinds of events.

All times are Unix times in seconds. No event holds a call's arguments, its payload or a key.

Frozen, but not slotted: `made` sets all fields of an event at once, in a third of the time that
`__init__` takes, because that sets each frozen field by a call of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any, TypeVar

E = TypeVar("E", bound="Event")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in this process.

    Attributes:
        at: When it happened.
    """

    at: float = field(default_factory=time)


@dataclass(frozen=True, kw_only=True)
class Called(Event):
    """An event about one call of a task.

    Attributes:
        task: The task's name; empty for a message that cannot be read.
        id: The message's id.
        queue: The message's queue.
        headers: Headers that the sender set, such as a trace context.
    """

    task: str
    id: str
    queue: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dispatched(Called):
    """The broker has accepted a call.

    Attributes:
        due: The earliest time it may run; `None` for immediately.
        payload_bytes: Size of the message.
    """

    due: float | None = None
    payload_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class RunStarted(Called):
    """A worker begins a run; fetching rows is part of it.

    Attributes:
        attempt: 1 for the first run.
        deliveries: How often the message was delivered for this attempt; above 1 after a crash.
        enqueued_at: When it was dispatched.
        due: When it was due; `None` if it was due as soon as it was dispatched.
    """

    attempt: int = 1
    deliveries: int = 1
    enqueued_at: float = 0.0
    due: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Ended(RunStarted):
    """A run has ended, and its outcome is on its way to the broker.

    Attributes:
        started_at: When the run began; the time of the event for a message that never ran.
    """

    started_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunSucceeded(_Ended):
    """The task returned."""


@dataclass(frozen=True, kw_only=True)
class RunSkipped(_Ended):
    """The task was skipped: a row that it needs is gone, and `on_missing` says to skip it."""

    error: BaseException | None = None


@dataclass(frozen=True, kw_only=True)
class RunFailed(_Ended):
    """The task raised, or its message cannot be run.

    Attributes:
        error: What was raised, with its traceback; `None` if only the text is known.
        reason: The error or reason as text.
        will_retry: Whether the call runs again; otherwise it is now a dead letter.
        delay_seconds: Seconds until it runs again.
    """

    error: BaseException | None = None
    reason: str = ""
    will_retry: bool = False
    delay_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunPostponed(_Ended):
    """An outage, a policy or the task itself put off the run; it did not use up an attempt."""

    error: BaseException | None = None
    reason: str = ""
    delay_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunReleased(_Ended):
    """The worker is stopping and gave the message back as if it had never taken it."""


@dataclass(frozen=True, kw_only=True)
class RunCancelled(_Ended):
    """The run was stopped because the call was cancelled."""


@dataclass(frozen=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process is about to take its first message.

    Attributes:
        worker: The worker's id, unique to each start of a process.
    """

    worker: str
    queues: tuple[str, ...] = ()
    concurrency: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkerStopped(Event):
    """A worker process has run its last task."""

    worker: str


def made(kind: type[E], fields: dict[str, Any]) -> E:
    """An event with these fields, made as cheaply as can be: a worker makes two for each run.

    Args:
        fields: Its fields, `at` and for a call `headers` among them; what is missing has its
            default. The event keeps this very dict.
    """
    event = object.__new__(kind)
    object.__setattr__(event, "__dict__", fields)
    return event
