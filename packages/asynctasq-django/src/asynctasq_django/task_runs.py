"""Runs Django's tasks: what happens around the task's function, and once its outcome is known."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from time import time
from traceback import format_exception
from typing import Any, cast

from asynctasq import Message, TaskCrashed, current_message

from .lanes import call_loader
from .task_results import (
    QUEUE,
    Record,
    crashed,
    failed,
    path_of,
    plain,
    ready,
    recorded,
    succeeded,
)
from .tasks_api import (
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    task_finished,
    task_started,
)


def runnable(task: Task[..., Any]) -> Callable[..., Any]:
    """The function that a worker runs, with the signature that callers see: no context."""
    run: Any = _run_async(task) if inspect.iscoroutinefunction(task.func) else _run(task)
    signature = inspect.signature(task.func)
    if task.takes_context:
        parameters = list(signature.parameters.values())[1:]
        signature = signature.replace(parameters=parameters)
    run.__signature__ = signature
    function: Callable[..., Any] = run
    return function


def _run(task: Task[..., Any]) -> Callable[..., dict[str, Any]]:
    @wraps(task.func)
    def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with _recorded(args, kwargs) as record:
            result = _begun(task, record)
            task_started.send(type(task.get_backend()), task_result=result)
            value = task.func(*_context(task, result), *args, **kwargs)
        return {"value": value} | record.content()

    return run


def _run_async(task: Task[..., Any]) -> Callable[..., Any]:
    @wraps(task.func)
    async def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with _recorded(args, kwargs) as record:
            result = _begun(task, record)
            await task_started.asend(type(task.get_backend()), task_result=result)
            value = await task.func(*_context(task, result), *args, **kwargs)
        return {"value": value} | record.content()

    return run


@contextmanager
def _recorded(args: Any, kwargs: Any) -> Iterator[Record]:
    """Record the run, however it ends."""
    message = current_message()
    headers = cast(dict[str, str], message.headers)
    runs = Record.of(headers).runs
    # What an earlier run in a process of its own recorded has not come back.
    unknown = ("unknown", message.enqueued_at)
    runs.extend([unknown] * (message.attempt - 1 - len(runs)))
    runs.append((f"{socket.gethostname()}-{os.getpid()}", time()))
    record = Record(runs, plain(args), plain(kwargs))
    try:
        yield record
    finally:
        record.finished = time()
        headers.update(record.header())


def _begun(task: Task[..., Any], record: Record) -> TaskResult[..., Any]:
    message = current_message()
    return recorded(ready(_placed(task, message), message.id), TaskResultStatus.RUNNING, record)


def _placed(task: Task[..., Any], message: Message) -> Task[..., Any]:
    """The task, on the queue that the call was put on."""
    queue = message.headers.get(QUEUE, task.queue_name)
    return task if queue == task.queue_name else task.using(queue_name=queue)


def _context(task: Task[..., Any], result: TaskResult[..., Any]) -> Sequence[TaskContext[..., Any]]:
    return (TaskContext(task_result=result),) if task.takes_context else ()


async def tell_finished(
    task: Task[..., Any],
    message: Message,
    content: dict[str, Any] | None,
    error: BaseException | None,
) -> None:
    """Send the signal for a call that will not run again.

    Args:
        content: What is kept of a call that succeeded.
        error: Why the call failed.
    """
    result = ready(_placed(task, message), message.id)
    if error is None:
        result = succeeded(result, content)
    else:
        traceback = "".join(format_exception(error))
        told = TaskError(exception_class_path=path_of(error), traceback=traceback)
        record = Record.of(message.headers)
        if isinstance(error, TaskCrashed):
            record = crashed(result, record, message.attempt)
        result = failed(result, record, told)
    await call_loader(_send_finished, type(task.get_backend()), result, error)


def _send_finished(
    sender: type[Any], result: TaskResult[..., Any], error: BaseException | None
) -> None:
    """Send it as Django does: to log a failure, Django takes the error being handled."""
    if error is None:
        task_finished.send(sender, task_result=result)
        return
    try:
        raise error
    except BaseException:  # noqa: BLE001 - whatever the task has raised
        task_finished.send(sender, task_result=result)
