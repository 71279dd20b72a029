"""A backend on asynctasq's queue for Django's Tasks (6.0) and their backport `django-tasks`.

    TASKS = {"default": {"BACKEND": "asynctasq_django.tasks_backend.AsynctasqBackend"}}

Arguments may be model instances and everything else that asynctasq can send; an instance of an
open transaction waits for its commit. `OPTIONS` takes the options of `asynctasq.task`.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from hashlib import blake2b
from importlib.util import find_spec
from traceback import format_exception
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import asynctasq
from asgiref.sync import async_to_sync
from django.db import models
from django.utils import timezone

if TYPE_CHECKING or find_spec("django.tasks"):
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django.tasks.exceptions import TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
else:
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started

P = ParamSpec("P")
R = TypeVar("R")

_RESULT_TTL_SECONDS = 24 * 3600
_ID_LENGTH = 32

# The header that tells the worker what the id of the result is made of besides the message's.
_QUEUE = "django-queue"

_UNFINISHED = {
    asynctasq.TaskStatus.WAITING: TaskResultStatus.READY,
    asynctasq.TaskStatus.DELAYED: TaskResultStatus.READY,
    asynctasq.TaskStatus.RUNNING: TaskResultStatus.RUNNING,
}

# By the name on the queue: the task as Django knows it, and as asynctasq does.
_registered: dict[str, tuple[Task[..., Any], asynctasq.Task[..., Any]]] = {}


class AsynctasqBackend(BaseTaskBackend):
    """Puts Django's tasks on asynctasq's queues; `asynctasq worker` runs them."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = False

    def validate_task(self, task: Task[..., Any]) -> None:
        """Check a task when it is declared, and let workers know it from then on."""
        super().validate_task(task)
        name = _name(task)
        if name not in _registered:
            options = {"result_ttl": _RESULT_TTL_SECONDS, **self.options}
            options |= {"name": name, "queue": task.queue_name}
            run = _run_async if inspect.iscoroutinefunction(task.func) else _run
            _registered[name] = task, asynctasq.task(**options)(_without_context(task, run(task)))

    def enqueue(self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Put a call on its queue, from synchronous code."""
        handle = self._call(task, args, kwargs).dispatch_sync()
        result = _result(task, _result_id(task, handle.id), args, kwargs)
        task_enqueued.send(type(self), task_result=result)
        return result

    async def aenqueue(self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Put a call on its queue, from asynchronous code."""
        handle = await self._call(task, args, kwargs).dispatch()
        result = _result(task, _result_id(task, handle.id), args, kwargs)
        await task_enqueued.asend(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """As `aget_result`."""
        found: TaskResult[..., Any] = async_to_sync(self.aget_result)(result_id)
        return found

    async def aget_result(self, result_id: str) -> TaskResult[..., Any]:
        """Where a call is now, and what came of it.

        Arguments are known again only once a call has succeeded: until then they are on the queue.

        Raises:
            TaskResultDoesNotExist: Cancelled, expired, or of a task that is not imported here.
            BrokerUnavailable: The broker cannot be reached.
            BadSignature: What is stored was not signed for this call.
        """
        handle, task = self._handle(result_id)
        status = await handle.status()
        if status in _UNFINISHED:
            return replace(_result(task, result_id), status=_UNFINISHED[status])
        try:
            return _succeeded(_result(task, result_id), await handle.result(timeout=0))
        except Exception as e:
            failed = replace(_result(task, result_id), status=TaskResultStatus.FAILED)
            if isinstance(e.__cause__, asynctasq.RemoteTraceback):
                failed.errors.append(_remote_error(e))
                return failed
            if not isinstance(e, asynctasq.ResultTimeout | asynctasq.TaskCancelled):
                raise
        if status == asynctasq.TaskStatus.DEAD:
            return failed
        raise TaskResultDoesNotExist(result_id)

    def _call(self, task: Task[..., Any], args: Any, kwargs: Any) -> asynctasq.Call[Any]:
        self.validate_task(task)
        _, run = _registered[_name(task)]
        call = run(*args, **kwargs).on_queue(task.queue_name)
        call = call.with_headers({_QUEUE: task.queue_name})
        return call if task.run_after is None else call.at(task.run_after)

    def _handle(self, result_id: str) -> tuple[asynctasq.TaskHandle[Any], Task[..., Any]]:
        message_id = result_id[:_ID_LENGTH]
        mine = [pair for name, pair in _registered.items() if name.startswith(f"{self.alias}:")]
        for task, run in mine:
            for queue in {task.queue_name, *self.queues}:
                placed = task.using(queue_name=queue)
                if _result_id(placed, message_id) == result_id:
                    return run.handle(message_id, queue), placed
        raise TaskResultDoesNotExist(result_id)


def _name(task: Task[..., Any]) -> str:
    return f"{task.backend}:{task.module_path}"


def _result_id(task: Task[..., Any], message_id: str) -> str:
    """The message's id, and a digest of what is needed besides to find it again."""
    where = f"{_name(task)}\n{task.queue_name}".encode()
    return message_id + blake2b(where, digest_size=8).hexdigest()


def _result(
    task: Task[P, R], result_id: str, args: Any = (), kwargs: Any = None
) -> TaskResult[P, R]:
    return TaskResult(
        task=task,
        id=result_id,
        status=TaskResultStatus.READY,
        enqueued_at=timezone.now(),
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=_plain(args),
        kwargs=_plain(kwargs or {}),
        backend=task.backend,
        errors=[],
        worker_ids=[],
    )


def _plain(value: Any) -> Any:
    """Arguments as JSON can hold them, to be shown: a row by its label and key."""
    if isinstance(value, models.Model):
        return f"{value._meta.label}:{value.pk}"
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _without_context(task: Task[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
    """Under the signature that callers see, in which the context does not occur."""
    signature = inspect.signature(task.func)
    if task.takes_context:
        parameters = list(signature.parameters.values())[1:]
        signature = signature.replace(parameters=parameters)
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def _run(task: Task[..., Any]) -> Callable[..., dict[str, Any]]:
    @wraps(task.func)
    def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        result = _begun(task, args, kwargs)
        sender = type(task.get_backend())
        task_started.send(sender, task_result=result)
        try:
            value = task.func(*_context(task, result), *args, **kwargs)
        except BaseException as e:
            task_finished.send(sender, task_result=_failed(result, e))
            raise
        content = _finished(result, value)
        task_finished.send(sender, task_result=result)
        return content

    return run


def _run_async(task: Task[..., Any]) -> Callable[..., Any]:
    @wraps(task.func)
    async def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        result = _begun(task, args, kwargs)
        sender = type(task.get_backend())
        await task_started.asend(sender, task_result=result)
        try:
            value = await task.func(*_context(task, result), *args, **kwargs)
        except BaseException as e:
            await task_finished.asend(sender, task_result=_failed(result, e))
            raise
        content = _finished(result, value)
        await task_finished.asend(sender, task_result=result)
        return content

    return run


def _context(task: Task[..., Any], result: TaskResult[..., Any]) -> Sequence[TaskContext[..., Any]]:
    return (TaskContext(task_result=result),) if task.takes_context else ()


def _begun(task: Task[..., Any], args: Any, kwargs: Any) -> TaskResult[..., Any]:
    message, now = asynctasq.current_message(), timezone.now()
    queue = message.headers.get(_QUEUE, task.queue_name)
    if queue != task.queue_name:
        task = task.using(queue_name=queue)
    result = _result(task, _result_id(task, message.id), args, kwargs)
    result.worker_ids.extend([f"{socket.gethostname()}-{os.getpid()}"] * message.attempt)
    return replace(
        result,
        status=TaskResultStatus.RUNNING,
        enqueued_at=datetime.fromtimestamp(message.enqueued_at, UTC),
        started_at=now,
        last_attempted_at=now,
    )


def _finished(result: TaskResult[..., Any], value: Any) -> dict[str, Any]:
    """Note the success, and what of it is kept on the broker."""
    for name, new in (
        ("status", TaskResultStatus.SUCCESSFUL),
        ("finished_at", timezone.now()),
        ("_return_value", value),
    ):
        object.__setattr__(result, name, new)
    kept = ("args", "kwargs", "enqueued_at", "started_at", "finished_at", "worker_ids")
    return {"value": value} | {name: getattr(result, name) for name in kept}


def _succeeded(result: TaskResult[..., Any], content: dict[str, Any]) -> TaskResult[..., Any]:
    value = content.pop("value")
    found = replace(
        result,
        status=TaskResultStatus.SUCCESSFUL,
        last_attempted_at=content["started_at"],
        **content,
    )
    object.__setattr__(found, "_return_value", value)
    return found


def _failed(result: TaskResult[..., Any], error: BaseException) -> TaskResult[..., Any]:
    traceback = "".join(format_exception(error))
    result.errors.append(TaskError(exception_class_path=_path(error), traceback=traceback))
    return replace(result, status=TaskResultStatus.FAILED, finished_at=timezone.now())


def _remote_error(error: Exception) -> TaskError:
    """An error that came back: its class if it is loaded here, the worker's traceback."""
    path = _path(error)
    if isinstance(error, asynctasq.TaskFailed):
        path = str(error).partition(":")[0]
    return TaskError(exception_class_path=path, traceback=str(error.__cause__ or error))


def _path(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
