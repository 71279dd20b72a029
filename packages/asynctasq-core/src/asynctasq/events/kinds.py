"""The kinds of events.

All times are Unix times in seconds. No event holds an argument of a call, its bytes or a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened in this process.

    Attributes:
        at: When.
    """

    at: float = field(default_factory=time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Called(Event):
    """Something about one call of a task.

    Attributes:
        task: The task's name; empty for a message that cannot be read.
        id: The message's id.
        queue: The queue that it is in.
        headers: What the sender gave along, such as a trace's context.
    """

    task: str
    id: str
    queue: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched(Called):
    """A call was handed to the broker, which has it.

    Attributes:
        due: The time before which it is not to run; `None` for at once.
        payload_bytes: Size of the message.
    """

    due: float | None = None
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Called):
    """A worker begins a run: fetching rows is part of it.

    Attributes:
        attempt: 1 for the first run.
        deliveries: How often the message was delivered for this attempt; above 1 after a crash.
        enqueued_at: When it was dispatched.
        due: When it was to begin; `None` for at once, when it was dispatched.
    """

    attempt: int = 1
    deliveries: int = 1
    enqueued_at: float = 0.0
    due: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended(RunStarted):
    """A run has ended, and its outcome is on its way to the broker.

    Attributes:
        started_at: When the run began; that of the event for a message that was not run.
    """

    started_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSucceeded(_Ended):
    """The task returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSkipped(_Ended):
    """The task was passed over, since a row of its arguments is gone and `on_missing` says so."""

    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(_Ended):
    """The task raised, or its message cannot be run.

    Attributes:
        error: What was raised, with its traceback; `None` where there is only text.
        reason: Error or reason as text.
        will_retry: Whether it runs again; otherwise it is a dead letter now.
        delay_seconds: Until it runs again.
    """

    error: BaseException | None = None
    reason: str = ""
    will_retry: bool = False
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPostponed(_Ended):
    """The run was put off without using up an attempt: an outage, a policy, or the task's wish."""

    error: BaseException | None = None
    reason: str = ""
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReleased(_Ended):
    """The worker ends, and gave the message back as if it had not been taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(_Ended):
    """The run was ended because somebody cancelled the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process is about to take its first message.

    Attributes:
        worker: Its id, unique per process start.
    """

    worker: str
    queues: tuple[str, ...] = ()
    concurrency: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    """A worker process has run its last task."""

    worker: str
