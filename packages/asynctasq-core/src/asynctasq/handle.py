"""The handle of a dispatched call: its id, its state, its result."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from time import monotonic
from types import BuiltinFunctionType, WrapperDescriptorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgpack

from .decoder import decode_value
from .errors import (
    BadSignature,
    DispatchDropped,
    MessageError,
    RemoteTraceback,
    ResultNotKept,
    ResultTimeout,
    SerializationError,
    TaskCancelled,
    TaskFailed,
)
from .message import RESULT, sign, verify
from .models import class_in, static_dict
from .serializer import Owner, encode_value

if TYPE_CHECKING:
    from .app import App
    from .dispatching import Deferred
    from .references import Ref
    from .task import Task

R = TypeVar("R")


class TaskStatus(StrEnum):
    """Where a dispatched call is.

    `UNCOMMITTED` waits for a transaction's commit, or is on its way to the broker after it.
    `DROPPED` was not sent: the transaction was rolled back, or the broker could not be reached
    after its commit. `DONE` is also what a call is that its queue no longer holds and that keeps
    no result.
    """

    UNCOMMITTED = "uncommitted"
    DROPPED = "dropped"
    WAITING = "waiting"
    DELAYED = "delayed"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


#: How long one call of the broker may wait for a result: the first; those after it; and while the
#: call waits for a commit, whose rollback no broker tells.
_FIRST_SECONDS, _LONGEST_SECONDS, _UNCOMMITTED_SECONDS = 1.0, 60.0, 0.25

_DEFERRED = {
    "waiting": TaskStatus.UNCOMMITTED,
    "sending": TaskStatus.UNCOMMITTED,
    "dropped": TaskStatus.DROPPED,
    "cancelled": TaskStatus.CANCELLED,
}


@dataclass(slots=True, eq=False)
class TaskHandle(Generic[R]):
    """What `dispatch` returns.

    Attributes:
        id: The message's id.
        queue: The queue that it was sent to.
        task: The task, which knows the types of its result.
        result_ttl: Seconds that the result is kept; `None` for a task that keeps none.
    """

    id: str
    queue: str
    task: Task[..., R]
    result_ttl: float | None
    _app: App = field(repr=False)
    _deferred: Deferred | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.id

    async def status(self) -> TaskStatus:
        """Where the call is now.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        if (sending := self._sending()) in _DEFERRED:
            return _DEFERRED[sending]
        broker = self._app.open_broker()
        state = await broker.state(self.queue, self.id)
        if state is not None:
            return TaskStatus(state)
        if self.result_ttl is not None:
            stored = await broker.result(self.queue, self.id, 0)
            if stored is not None:
                is_cancelled = self._read(stored).get("cancelled")
                return TaskStatus.CANCELLED if is_cancelled else TaskStatus.DONE
        return TaskStatus.DONE if sending == "sent" else TaskStatus.DROPPED

    def _sending(self) -> str:
        """How far a dispatch that waited for a commit has come."""
        return "sent" if self._deferred is None else self._deferred.state

    async def result(self, timeout: float | None = None) -> R:
        """What the task returned, waiting for it; an error of the task is raised again here.

        The error's `__cause__` shows the worker's traceback. Its class is used if it is loaded in
        this process and has no `__new__` of its own; otherwise `TaskFailed` is raised.

        Args:
            timeout: Seconds to wait; `None` for as long as it takes.

        Raises:
            ResultNotKept: The task has no `result_ttl`.
            ResultTimeout: It has not finished in time; without a `timeout`, its queue no longer
                holds it and its result has expired.
            TaskCancelled: It was cancelled.
            DispatchDropped: Its transaction was rolled back, or it could not be sent afterwards.
            TaskFailed: It failed with an error that cannot be raised again here, or what is stored
                is damaged.
            BadSignature: What is stored was not signed for this call.
            BrokerUnavailable: The broker cannot be reached.
        """
        if self.result_ttl is None:
            raise ResultNotKept(
                f"{self.task.name} keeps no result: declare it with @task(result_ttl=seconds)"
            )
        content = self._read(await self._stored(timeout))
        if "value" in content:
            result: R = self._decoded(content["value"], self.task.hints[1].types)
            return result
        if content.get("cancelled"):
            raise TaskCancelled(f"{self.task.name} {self.id} was cancelled")
        raise _error(content)

    async def _stored(self, timeout: float | None) -> bytes:
        broker = self._app.open_broker()
        deadline = inf if timeout is None else monotonic() + timeout
        step = _FIRST_SECONDS
        while True:
            is_committed = self._is_committed()
            wait = min(step if is_committed else _UNCOMMITTED_SECONDS, deadline - monotonic())
            stored = await broker.result(self.queue, self.id, max(0.0, wait))
            if stored is None and is_committed and await self._is_unknown(timeout):
                return await self._stored_last()
            if stored is not None:
                return stored
            if monotonic() >= deadline:
                raise ResultTimeout(f"{self.task.name} {self.id}: no result within {timeout} s")
            step = _LONGEST_SECONDS

    async def _is_unknown(self, timeout: float | None) -> bool:
        """Whether the queue does not hold the call; not asked of one that may be sent in time."""
        if timeout is not None and self._sending() != "failed":
            return False
        return await self._app.open_broker().state(self.queue, self.id) is None

    async def _stored_last(self) -> bytes:
        """The result of a call that the queue does not hold (they change places in one step)."""
        stored = await self._app.open_broker().result(self.queue, self.id, 0)
        if stored is not None:
            return stored
        call = f"{self.task.name} {self.id}"
        if self._sending() == "failed":
            raise DispatchDropped(f"{call}: it could not be sent after the commit")
        raise ResultTimeout(f"{call}: its queue does not hold it, and its result has expired")

    def _is_committed(self) -> bool:
        """Whether no transaction's end is awaited; raises if it was a rollback."""
        state = self._sending()
        if state == "dropped":
            raise DispatchDropped(f"{self.task.name} {self.id}: its transaction was rolled back")
        if state == "cancelled":
            raise TaskCancelled(f"{self.task.name} {self.id} was cancelled")
        return state in ("sent", "failed")

    async def cancel(self) -> bool:
        """Remove the call if it has not started.

        Returns:
            Whether it was removed; `False` when it is being sent after a commit, running, finished
            or dead.
        """
        if self._deferred is not None and self._deferred.cancel():
            return True
        if self._sending() in _DEFERRED:
            return False
        result = None
        if self.result_ttl is not None:
            result = _sealed({"cancelled": True}, self._app, self.id)
        broker = self._app.open_broker()
        return await broker.cancel(self.queue, self.id, result, self.result_ttl or 0)

    def _read(self, stored: bytes) -> dict[str, Any]:
        keys = self._app.config.signing_key
        content = self._decoded(verify(stored, keys, RESULT), {})
        if not isinstance(content, dict):
            raise TaskFailed(f"{self.task.name} {self.id}: the stored result is damaged")
        if keys and content.get("id") != self.id:
            raise BadSignature(f"{self.task.name} {self.id}: the stored result is another call's")
        return content

    def _decoded(self, stored: Any, types: Mapping[str, type]) -> Any:
        try:
            return decode_value(stored, types)
        except MessageError as e:
            call = f"{self.task.name} {self.id}"
            raise TaskFailed(f"{call}: the stored result is damaged: {e}") from None


class _NoInstances:
    """Stands for the owner of model instances where none may be."""

    name = ""

    def to_ref(self, obj: object) -> Ref:
        raise SerializationError("a result holds no model instances: return their keys")


def encode_result(value: object, app: App, task: Task[..., Any], message_id: str) -> bytes:
    """The stored form of what a task returned.

    Raises:
        SerializationError: The value cannot travel.
    """

    def refusing(obj: object) -> Owner | None:
        return None if app.adapters.owner_of(obj) is None else _NoInstances()

    encoded = encode_value(value, "result", refusing, task.hints[1].tags, app.adapters.plain_form)
    return _sealed({"value": encoded}, app, message_id)


def encode_error(error: BaseException, traceback: str, app: App, message_id: str) -> bytes:
    """The stored form of the error that a task ended with."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the application's `__str__`
        text = ""
    content = {
        "error": f"{type(error).__module__}:{type(error).__qualname__}",
        "args": _encoded(list(error.args), app),
        "state": _encoded(dict(vars(error)), app),
        "text": text,
        "traceback": traceback,
    }
    return _sealed(content, app, message_id)


def _encoded(value: object, app: App) -> bytes | None:
    """What of an error can travel; `None` if it cannot."""
    try:
        return encode_value(value, "error", lambda _: None, {}, app.adapters.plain_form)
    except SerializationError:
        return None


def _sealed(content: dict[str, Any], app: App, message_id: str) -> bytes:
    """The content as bytes; a signed one names its message, so that it can stand for no other."""
    keys = app.config.signing_key
    if keys:
        content["id"] = message_id
    return sign(msgpack.packb(content, unicode_errors="backslashreplace"), keys, RESULT)


def _error(content: dict[str, Any]) -> BaseException:
    """The error as its own class where that can be made without running anybody's code."""
    name, text = str(content.get("error", "?")), str(content.get("text", ""))
    cls = _loaded_error_class(name)
    error: BaseException
    error = TaskFailed(f"{name.replace(':', '.').removeprefix('builtins.')}: {text}")
    if cls is not None and content.get("args") is not None:
        args = decode_value(content["args"], {})
        with suppress(Exception):  # a built-in class that refuses these arguments
            error = _made(cls, args)
            if content.get("state") is not None:
                vars(error).update(decode_value(content["state"], {}))
    error.__cause__ = RemoteTraceback(str(content.get("traceback", "")))
    return error


def _made(cls: type[Exception], args: list[Any]) -> Exception:
    if isinstance(cls.__init__, WrapperDescriptorType):
        return cls(*args)  # nothing but built-in code; `OSError` sets its attributes so
    error = cls.__new__(cls)
    error.args = tuple(args)
    return error


def _loaded_error_class(name: str) -> type[Exception] | None:
    """The exception class of this name if it is loaded and takes its arguments as they are."""
    module, _, path = name.partition(":")
    found = class_in(static_dict(sys.modules.get(module)), path.split("."))
    if found is None or not issubclass(found, Exception):
        return None
    if issubclass(found, StopIteration | StopAsyncIteration):  # no coroutine can raise them
        return None
    # A `__new__` written in Python would be somebody's code; `__init__` is not called at all.
    return found if isinstance(found.__new__, BuiltinFunctionType) else None
