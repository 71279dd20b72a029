"""One dispatched call as a test sees it: its task, its arguments and when it is due."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..app import current
from ..brokers import Outgoing
from ..sending.handle import TaskHandle
from ..tasks.class_based import AsyncTask, SyncTask
from ..tasks.task import Task, registry
from ..wire.decoding import collect_references, decode_arguments
from ..wire.encoding import encode_arguments
from ..wire.message import Message
from ..wire.reference import Ref

R = TypeVar("R")

#: What a test may name: a task made from a function, or a task class.
AnyTask = Task[..., R] | type[AsyncTask[R]] | type[SyncTask[R]]


@dataclass(frozen=True, slots=True)
class Sent(Generic[R]):
    """A call that the broker has, or had.

    Attributes:
        task: The task that it calls.
        arguments: By parameter, as decoded from bytes; model instances are `Ref`s.
        delay_seconds: Minimum time between its dispatch and its run.
        handle: The handle that `dispatch` returned.
    """

    task: Task[..., R]
    id: str
    queue: str
    arguments: Mapping[str, Any]
    delay_seconds: float
    headers: Mapping[str, str]
    handle: TaskHandle[R] = field(repr=False, compare=False)

    def has(self, arguments: Mapping[str, Any]) -> bool:
        """Whether its arguments include these."""
        return all(n in self.arguments and self.arguments[n] == arguments[n] for n in arguments)

    def __str__(self) -> str:
        return f"{self.task.name}({shown(self.arguments)})"


def read(outgoing: Outgoing) -> Sent[Any]:
    """The call in a message that was put on a queue.

    Raises:
        LookupError: No task of its name is registered here.
    """
    message = Message.decode(outgoing.body, current().config.signing_key)
    task = registry.get(message.task)
    if task is None:
        raise LookupError(f"no task {message.task!r} is registered here")
    delay = 0.0 if outgoing.due is None else round(max(0.0, outgoing.due - message.enqueued_at), 3)
    return Sent(
        task,
        message.id,
        outgoing.queue,
        _decoded(task, message.payload),
        delay,
        message.headers,
        task.handle(message.id, outgoing.queue),
    )


def task_of(task: AnyTask[R]) -> Task[..., R]:
    """The task itself, even for a task class."""
    found: Any = task if isinstance(task, Task) else getattr(task, "_task", None)
    if not isinstance(found, Task):
        raise TypeError(f"a task was expected, not {task!r}")
    return found


def as_sent(
    task: Task[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> Mapping[str, Any]:
    """These arguments, which may be only some, as they would be decoded.

    Raises:
        TypeError: The task has no such parameter.
    """
    try:
        bound = inspect.signature(task.function).bind_partial(*args, **kwargs)
    except TypeError as e:
        raise TypeError(f"{task.name}: {e}") from None
    adapters, annotations = current().adapters, task.annotations
    encoded = encode_arguments(
        bound.args,
        bound.kwargs,
        task.parameter_names,
        adapters.owner_of,
        annotations.type_names,
        adapters.plain_form,
    )
    return _decoded(task, encoded.payload)


def _decoded(task: Task[..., Any], payload: bytes) -> Mapping[str, Any]:
    refs = [ref for _, found in collect_references(payload) for ref in found]
    args, kwargs = decode_arguments(payload, task.annotations.types, refs)
    return inspect.signature(task.function).bind_partial(*args, **kwargs).arguments


def shown(arguments: Mapping[str, Any]) -> str:
    """Arguments for people: `order=Order#5`."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())


def _shown(value: object) -> str:
    if isinstance(value, Ref):
        return f"{value.model.rpartition('.')[2]}#{value.pk}"
    return repr(value)
