"""Every error that asynctasq raises, in one tree.

    AsynctasqError
    ├── ConfigurationError          an option, a setting or an installation is wrong
    │   ├── PluginError             an adapter is missing, broken or installed twice
    │   └── BrokenModule            a module of the application cannot be imported
    ├── SerializationError          an argument cannot travel; names its path and type
    │   ├── PayloadTooLarge
    │   ├── UnsavedModelError       the instance has no row yet
    │   └── DeletedModelError       the instance's row was deleted
    ├── MessageError                bytes taken from a queue cannot be run; they are dead-lettered
    │   ├── InvalidMessage          not a message, or a damaged one
    │   ├── UnsupportedVersion
    │   ├── BadSignature
    │   ├── InvalidReference        names something that is not a model of the application
    │   └── NotYetKnown             newer code may know it: put off for `unknown_for` first
    │       ├── UnknownTask
    │       ├── UnknownArguments    they do not fit the task; an InvalidMessage, too
    │       └── UnknownModel        a reference names it; an InvalidReference, too
    ├── ReferenceGone               the row was deleted before the task ran
    ├── ReferenceUnavailable        the database could not answer
    │   └── AdapterNotReady         the ORM is not initialised yet
    ├── BrokerError
    │   ├── BrokerUnavailable       the broker did not answer in time
    │   └── OutcomesRefused         what became of a task is too large for the broker
    ├── DispatchDropped             the transaction was rolled back, or the send after it failed
    ├── DuplicateCall               its queue holds a call with the same unique key
    ├── TaskTimeout                 the task ran longer than its timeout
    ├── TaskCrashed                 the process that ran the task died
    └── ResultError
        ├── ResultNotKept           the task keeps no result
        ├── ResultTimeout           no result yet
        ├── TaskCancelled           the task was cancelled before it started
        ├── ChainStopped            a call that it follows has failed for good
        └── TaskFailed              the task failed with an error that cannot be raised again here

`Retry`, `Snooze` and `Stopped` are no errors but requests: a task raises them to be run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .durations import DELAY_RULE, is_delay


class AsynctasqError(Exception):
    """Base of every error raised by asynctasq."""


class ConfigurationError(AsynctasqError):
    """An option, a setting or an installation is wrong."""


class PluginError(ConfigurationError):
    """An adapter is missing, broken, or installed twice under one name."""


class BrokenModule(ConfigurationError):
    """One of the application's modules raised an error, the cause, while being imported."""


class SerializationError(AsynctasqError):
    """A value cannot be put on the queue.

    Args:
        problem: What is wrong, without where.
        path: Where the value is, such as `order.items[3].price`; empty if unknown.
    """

    def __init__(self, problem: str, path: str = "") -> None:
        self.problem = problem
        self.path = path
        super().__init__(f"{path}: {problem}" if path else problem)


class PayloadTooLarge(SerializationError):
    """The encoded message is larger than `max_payload_bytes`."""


class UnsavedModelError(SerializationError):
    """The instance has no row yet: save (flush) it before dispatching."""


class DeletedModelError(SerializationError):
    """The instance's row was deleted."""


class MessageError(AsynctasqError):
    """Bytes taken from a queue cannot be run; the worker dead-letters them, once."""


class InvalidMessage(MessageError):
    """The bytes are not a message, or a damaged one."""


class UnsupportedVersion(MessageError):
    """The message was written by an incompatible version of asynctasq."""


class BadSignature(MessageError):
    """The message is unsigned, or none of the `signing_key`s verifies it."""


class InvalidReference(MessageError):
    """A reference names an adapter, class or key that does not belong to the application."""


class NotYetKnown(MessageError):
    """A worker with newer code may know the message; it waits up to `unknown_for` seconds first."""


class UnknownTask(NotYetKnown):
    """No module given to the worker registers a task of this name."""


class UnknownArguments(NotYetKnown, InvalidMessage):
    """The arguments do not fit the task, or are of a class that its annotations do not name."""


class UnknownModel(NotYetKnown, InvalidReference):
    """A reference names an adapter, or one of the application's classes, that does not exist."""


class ReferenceGone(AsynctasqError):
    """The row that an argument refers to no longer exists.

    Args:
        problem: Which row is gone.
        on_missing: The parameter's own rule, if it has one; otherwise the task's rule applies.
    """

    def __init__(self, problem: str, on_missing: str | None = None) -> None:
        self.on_missing = on_missing
        super().__init__(problem)


class ReferenceUnavailable(AsynctasqError):
    """The database that holds a referenced row could not answer."""


class AdapterNotReady(ReferenceUnavailable):
    """The ORM is not initialised in this process; arguments become lazy objects."""


class BrokerError(AsynctasqError):
    """The broker refused an operation."""


class BrokerUnavailable(BrokerError):
    """The broker did not answer in time, or cannot accept writes right now."""


class OutcomesRefused(BrokerError):
    """Some outcomes are too large for the broker, so sending them again will not help.

    Args:
        problem: What the broker said.
        refused: The refused `Outcome`s, which changed nothing; all others were applied.
        lost: Those of the others whose lease no longer belonged to the consumer.
    """

    def __init__(self, problem: str, refused: Sequence[Any], lost: Sequence[Any]) -> None:
        self.refused = refused
        self.lost = lost
        super().__init__(problem)


class DispatchDropped(AsynctasqError):
    """A dispatch waited for a transaction that rolled back, or the send after it failed."""


class DuplicateCall(AsynctasqError):
    """The queue already holds a call with the same unique key, and `on_conflict="raise"` is set.

    Args:
        task: The task's name.
        existing_id: The id of the call that holds the key.
    """

    def __init__(self, task: str, existing_id: str) -> None:
        self.task = task
        self.existing_id = existing_id
        super().__init__(f"{task}: call {existing_id} has the same unique key")


class TaskTimeout(AsynctasqError):
    """The task ran longer than its `timeout`."""


class TaskCrashed(AsynctasqError):
    """The child process that ran the task died."""


class ResultError(AsynctasqError):
    """A task's result is not available."""


class ResultNotKept(ResultError):
    """The task keeps no result: give it a `result_ttl`."""


class ResultTimeout(ResultError, TimeoutError):
    """The task did not finish within the `timeout` given to `result()`, or its result expired."""


class TaskCancelled(ResultError):
    """The task was cancelled before it started."""


class ChainStopped(ResultError):
    """An earlier call in the chain failed for good, so this one is never made.

    Retry the earlier call from the dead letters to continue the chain.
    """


class TaskFailed(ResultError):
    """The task failed with an error that cannot be raised again here, or its result is damaged.

    Either the error's class is not loaded in this process, defines its own `__new__` or refuses the
    arguments, or the arguments could not be stored.
    """


class RemoteTraceback(Exception):
    """The traceback of a task's error, as text from the worker.

    Attributes:
        headers: The message's headers, including those that the task itself set.
        attempts: How often the call ran; 0 if that is unknown.
    """

    def __init__(
        self, text: str, headers: Mapping[str, str] | None = None, attempts: int = 0
    ) -> None:
        self.text = text
        self.headers = dict(headers or {})
        self.attempts = attempts
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class Retry(Exception):
    """Raise this in a task to run it again.

    This uses up an attempt; if none is left, the message goes to the dead letters.

    Args:
        reason: Shown in the log and in the dead letter.
        delay: Seconds until the next attempt; by default the task's retry policy decides.
    """

    def __init__(self, reason: str = "", *, delay: float | None = None) -> None:
        if delay is not None and not is_delay(delay):
            raise ValueError(f"Retry(delay={delay}): it must be {DELAY_RULE}")
        self.delay = delay
        super().__init__(reason)


class Snooze(Exception):
    """Raise this in a task to run it later without using up an attempt.

    `current_message().snoozes` counts how often the call was put off this way. Once that exceeds
    the task's `max_snoozes`, the message goes to the dead letters.

    Args:
        seconds: Seconds until the next run.
        reason: Shown in the log.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not is_delay(seconds):
            raise ValueError(f"Snooze({seconds}): it must be {DELAY_RULE}")
        self.seconds = seconds
        super().__init__(*([reason] if reason else []))


class Stopped(Exception):
    """Raise this in a task to end early because its worker is stopping (see `is_stopping`).

    The call is given back without using up an attempt; the next run gets its `checkpoint`.
    """
