"""A backend on asynctasq's queue for Django's Tasks (6.0) and their backport `django-tasks`.

    TASKS = {"default": {"BACKEND": "asynctasq_django.tasks_backend.AsynctasqBackend"}}

Arguments may be model instances and anything else that asynctasq can send; a call with an instance
of an open transaction waits for the commit. `OPTIONS` takes the options of `asynctasq.task`,
including policies such as `limit`; they apply to every task that names the backend. `task_options`
gives them to one task:

    @task
    @task_options(limit=Limit(1, by="order"))
    def ship(order: Order) -> None: ...
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import asynctasq
from asgiref.sync import async_to_sync
from asynctasq import Message

from .task_options import options_of, task_options
from .task_results import (
    ID_LENGTH,
    QUEUE,
    Record,
    crashed,
    failed,
    name_of,
    path_of,
    plain,
    ready,
    remote_error,
    succeeded,
)
from .task_results import result_id as id_of_result
from .task_runs import runnable, tell_finished
from .tasks_api import (
    BaseTaskBackend,
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)

__all__ = ["AsynctasqBackend", "task_options"]

P = ParamSpec("P")
R = TypeVar("R")

_RESULT_TTL_SECONDS = 24 * 3600

_UNFINISHED = {
    asynctasq.TaskStatus.WAITING: TaskResultStatus.READY,
    asynctasq.TaskStatus.DELAYED: TaskResultStatus.READY,
    asynctasq.TaskStatus.RUNNING: TaskResultStatus.RUNNING,
}

# By the name on the queue: Django's task, and asynctasq's.
_registered: dict[str, tuple[Task[..., Any], asynctasq.Task[..., Any]]] = {}


class AsynctasqBackend(BaseTaskBackend):
    """Puts Django's tasks on asynctasq's queues; `asynctasq worker` runs them."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def validate_task(self, task: Task[..., Any]) -> None:
        """Check a task when it is declared, and register it for workers."""
        super().validate_task(task)
        name = name_of(task)
        if name not in _registered:
            options = {"result_ttl": _RESULT_TTL_SECONDS, **self._options(task)}
            options |= {"name": name, "queue": task.queue_name}
            _registered[name] = task, asynctasq.task(**options)(runnable(task))

    def enqueue(self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Put a call on its queue, from synchronous code.

        Returns:
            If `unique` kept another call instead, the result of that one, and no signal is sent.
        """
        handle = self._call(task, args, kwargs).dispatch_sync()
        if handle.is_existing:
            return ready(task, handle.id)
        result = ready(task, handle.id, args, kwargs)
        task_enqueued.send(type(self), task_result=result)
        return result

    async def aenqueue(self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Put a call on its queue, from asynchronous code; see `enqueue`."""
        handle = await self._call(task, args, kwargs).dispatch()
        if handle.is_existing:
            return ready(task, handle.id)
        result = ready(task, handle.id, args, kwargs)
        await task_enqueued.asend(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """See `aget_result`."""
        found: TaskResult[..., Any] = async_to_sync(self.aget_result)(result_id)
        return found

    async def aget_result(self, result_id: str) -> TaskResult[..., Any]:
        """Where a call is now, and what came of it.

        Arguments and runs are known again only once the call has ended: until then they are on the
        queue.

        Raises:
            TaskResultDoesNotExist: It has expired, or its task is not imported here.
            BrokerUnavailable: The broker cannot be reached.
            BadSignature: The stored result was not signed for this call.
        """
        handle, task = self._handle(result_id)
        result = ready(task, handle.id)
        status = await handle.status()
        if status in _UNFINISHED:
            return replace(result, status=_UNFINISHED[status])
        try:
            return succeeded(result, await handle.result(timeout=0))
        except Exception as e:
            if isinstance(e.__cause__, asynctasq.RemoteTraceback):
                record = Record.of(e.__cause__.headers)
                if isinstance(e, asynctasq.TaskCrashed):
                    record = crashed(result, record, e.__cause__.attempts)
                return failed(result, record, remote_error(e))
            if isinstance(e, asynctasq.TaskCancelled):
                told = TaskError(exception_class_path=path_of(e), traceback=str(e))
                return failed(result, Record(), told)
            if not isinstance(e, asynctasq.ResultTimeout):
                raise
        if status == asynctasq.TaskStatus.DEAD:
            return failed(result, Record())
        raise TaskResultDoesNotExist(result_id)

    def _call(self, task: Task[..., Any], args: Any, kwargs: Any) -> asynctasq.Call[Any]:
        self.validate_task(task)
        _, run = _registered[name_of(task)]
        call = run(*args, **kwargs).on_queue(task.queue_name)
        headers = {QUEUE: task.queue_name}
        if self._options(task).get("process"):  # a process may die before it records anything
            headers |= Record(args=plain(args), kwargs=plain(kwargs)).header()
        call = call.with_headers(headers)
        if task.priority:  # otherwise the priority in the options applies
            call = call.priority(int(task.priority))
        # Naive times are local, as in Django without USE_TZ.
        return call if task.run_after is None else call.at(task.run_after.astimezone())

    def _options(self, task: Task[..., Any]) -> dict[str, Any]:
        return {**self.options, **options_of(task.func)}

    def _handle(self, result_id: str) -> tuple[asynctasq.TaskHandle[Any], Task[..., Any]]:
        message_id = result_id[:ID_LENGTH]
        mine = [pair for name, pair in _registered.items() if name.startswith(f"{self.alias}:")]
        for task, run in mine:
            for queue in {task.queue_name, *self.queues}:
                placed = task.using(queue_name=queue)
                if id_of_result(placed, message_id) == result_id:
                    return run.handle(message_id, queue), placed
        raise TaskResultDoesNotExist(result_id)


#: Outcomes after which a call does not run again.
_ENDS = ("succeeded", "skipped", "dead", "cancelled")


def run_ended(
    message: Message, outcome: str, value: object, error: BaseException | None
) -> Awaitable[None] | None:
    """Send Django's signal once a call of one of its tasks has come to its end."""
    if message.task not in _registered or outcome not in _ENDS:
        return None
    if outcome == "cancelled":
        error = asynctasq.TaskCancelled(f"{message.task} was cancelled while it ran")
    content = value if isinstance(value, dict) else None
    return tell_finished(_registered[message.task][0], message, content, error)
