"""The attributes of spans and metrics, after the semantic conventions for messaging."""

from __future__ import annotations

from asynctasq import Message

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"

#: An attribute of asynctasq's own.
TASK = "asynctasq.task.name"
ATTEMPT = "asynctasq.task.attempt"
MODEL = "asynctasq.model"
OUTCOME = "asynctasq.outcome"

Attributes = dict[str, str | int]


def of_operation(name: str, kind: str, task: str, queue: str) -> Attributes:
    """The attributes shared by spans and metrics of an operation."""
    return {
        SYSTEM: "asynctasq",
        OPERATION_NAME: name,
        OPERATION_TYPE: kind,
        DESTINATION: queue,
        TASK: task,
    }


def of_run(message: Message) -> Attributes:
    """Attributes of a run's span; a run by `execute()` has no message in a queue."""
    if not message.queue:
        return {TASK: message.task}
    attributes = of_operation("run", "process", message.task, message.queue)
    return {**attributes, MESSAGE_ID: message.id, ATTEMPT: message.attempt}


def error_type(error: BaseException) -> str:
    """The error's class, spelled as the conventions say."""
    cls = type(error)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
