"""The attributes of spans and metrics, by the semantic conventions for messaging."""

from __future__ import annotations

from asynctasq import Message

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"

#: Of asynctasq's own.
TASK = "asynctasq.task.name"
ATTEMPT = "asynctasq.task.attempt"
MODEL = "asynctasq.model"
OUTCOME = "asynctasq.outcome"

Attributes = dict[str, str | int]


def of_operation(name: str, kind: str, task: str, queue: str) -> Attributes:
    """What spans and metrics of an operation have in common."""
    return {
        SYSTEM: "asynctasq",
        OPERATION_NAME: name,
        OPERATION_TYPE: kind,
        DESTINATION: queue,
        TASK: task,
    }


def of_run(message: Message) -> Attributes:
    """Those of the span of a run; `execute()` runs what is no message of a queue."""
    if not message.queue:
        return {TASK: message.task}
    attributes = of_operation("run", "process", message.task, message.queue)
    return {**attributes, MESSAGE_ID: message.id, ATTEMPT: message.attempt}


def error_type(error: BaseException) -> str:
    """The error's class as the conventions spell it."""
    cls = type(error)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
