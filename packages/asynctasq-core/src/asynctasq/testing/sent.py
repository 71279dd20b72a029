"""One dispatched call as a test sees it: its task, its arguments, when it is due."""

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

#: What a test may name: a function that is a task, or a class that is one.
AnyTask = Task[..., R] | type[AsyncTask[R]] | type[SyncTask[R]]


@dataclass(frozen=True, slots=True)
class Sent(Generic[R]):
    """A call that the broker has, or had.

    Attributes:
        task: What it calls.
        arguments: By parameter, as they came back from bytes; model instances are `Ref`s.
        delay_seconds: How long after its dispatch it was to run at the earliest.
        handle: As `dispatch` returned it.
    """

    task: Task[..., R]
    id: str
    queue: str
    arguments: Mapping[str, Any]
    delay_seconds: float
    headers: Mapping[str, str]
    handle: TaskHandle[R] = field(repr=False, compare=False)

    def has(self, arguments: Mapping[str, Any]) -> bool:
        """Whether these are among its arguments."""
        return all(n in self.arguments and self.arguments[n] == arguments[n] for n in arguments)

    def __str__(self) -> str:
        return f"{self.task.name}({shown(self.arguments)})"


def read(outgoing: Outgoing) -> Sent[Any]:
    """What was put on a queue.

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
    """The task itself, also of a class-based one."""
    found: Any = task if isinstance(task, Task) else getattr(task, "_task", None)
    if not isinstance(found, Task):
        raise TypeError(f"a task was expected, not {task!r}")
    return found


def as_sent(
    task: Task[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> Mapping[str, Any]:
    """These arguments, which need not be all, as they would be read.

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
        annotations.type_tags,
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
