"""What Django is told about a call of one of its tasks: a `TaskResult` of all that is known.

A worker writes a record of the runs into the message's headers, so that it travels with retries and
is kept with the error of a failed call. A successful call has it in its result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, ParamSpec, TypeVar

import asynctasq
from django.conf import settings
from django.db import models

from .tasks_api import Task, TaskError, TaskResult, TaskResultStatus

P = ParamSpec("P")
R = TypeVar("R")

#: Length of a message's id in characters; the first are the time of dispatch in milliseconds.
ID_LENGTH = 32
_TIME_LENGTH = 12

#: The headers that hold the queue (which a result's id depends on) and the record.
QUEUE, RECORD = "django-queue", "django-task"


@dataclass(slots=True)
class Record:
    """What a worker knows about a call, in a form that JSON can hold.

    Attributes:
        runs: For each run, the worker and when it began, as Unix time.
        finished: When the last run ended, as Unix time.
    """

    runs: list[tuple[str, float]] = field(default_factory=list)
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    finished: float | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Record:
        """The record in a message's headers; an empty one if there is none."""
        try:
            return cls(**json.loads(headers.get(RECORD, "{}")))
        except (ValueError, TypeError):  # not written by a worker
            return cls()

    def content(self) -> dict[str, Any]:
        """The record's parts by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def header(self) -> dict[str, str]:
        """The record as a message's header."""
        return {RECORD: json.dumps(self.content())}


def name_of(task: Task[..., Any]) -> str:
    """The task's name on the queue."""
    return f"{task.backend}:{task.module_path}"


def result_id(task: Task[..., Any], message_id: str) -> str:
    """The message's id, and a digest of what else is needed to find it again."""
    where = f"{name_of(task)}\n{task.queue_name}".encode()
    return message_id + blake2b(where, digest_size=8).hexdigest()


def ready(
    task: Task[P, R], message_id: str, args: Any = (), kwargs: Any = None
) -> TaskResult[P, R]:
    """A call about which nothing new is known since its dispatch."""
    return TaskResult(
        task=task,
        id=result_id(task, message_id),
        status=TaskResultStatus.READY,
        enqueued_at=_moment(int(message_id[:_TIME_LENGTH], 16) / 1000),
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=plain(args),
        kwargs=plain(kwargs or {}),
        backend=task.backend,
        errors=[],
        worker_ids=[],
    )


def recorded(
    result: TaskResult[P, R], status: TaskResultStatus, record: Record
) -> TaskResult[P, R]:
    """The call as its record describes it."""
    return replace(
        result,
        status=status,
        args=record.args,
        kwargs=record.kwargs,
        started_at=_moment(record.runs[0][1]) if record.runs else None,
        last_attempted_at=_moment(record.runs[-1][1]) if record.runs else None,
        finished_at=None if record.finished is None else _moment(record.finished),
        worker_ids=[worker for worker, _ in record.runs],
    )


def succeeded(result: TaskResult[P, R], content: dict[str, Any] | None) -> TaskResult[P, R]:
    """A call that has succeeded, with what is kept of it; a skipped call keeps nothing."""
    content = dict(content or {"value": None})
    value = content.pop("value")
    found = recorded(result, TaskResultStatus.SUCCESSFUL, Record(**content))
    object.__setattr__(found, "_return_value", value)
    return found


def crashed(result: TaskResult[P, R], record: Record, attempts: int) -> Record:
    """The record of a call whose process has ended so often before it could record its run."""
    enqueued = 0.0 if result.enqueued_at is None else result.enqueued_at.timestamp()
    unknown = [("unknown", enqueued)] * (attempts - len(record.runs))
    return replace(record, runs=[*record.runs, *unknown])


def failed(result: TaskResult[P, R], record: Record, *errors: TaskError) -> TaskResult[P, R]:
    """A call that has failed."""
    found = recorded(result, TaskResultStatus.FAILED, record)
    found.errors.extend(errors)
    return found


def remote_error(error: BaseException) -> TaskError:
    """An error that came back, with its class if it is loaded here and the worker's traceback."""
    path = path_of(error)
    if isinstance(error, asynctasq.TaskFailed):
        name = str(error).partition(":")[0]
        path = name if "." in name else f"builtins.{name}"
    return TaskError(exception_class_path=path, traceback=str(error.__cause__ or error))


def path_of(error: BaseException) -> str:
    """The path of the error's class, in the form that Django looks up."""
    return f"{type(error).__module__}.{type(error).__qualname__}"


def plain(value: Any) -> Any:
    """Arguments in a form that JSON can hold and people can read: a row by its label and key."""
    if isinstance(value, models.Model):
        return f"{value._meta.label}:{value.pk}"
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _moment(timestamp: float) -> datetime:
    """The time as Django's own functions return it: aware, or naive and local."""
    return datetime.fromtimestamp(timestamp, UTC if settings.USE_TZ else None)
