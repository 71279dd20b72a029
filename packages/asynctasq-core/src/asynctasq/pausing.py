"""Pauses and resumes queues, tasks and calls with certain arguments."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any

from .app import App, current
from .brokers import Broker, Pausing
from .config.settings import is_queue_name
from .errors import ConfigurationError
from .policies.pauses import LONGEST_BYTES, Pause, check_where, text_for
from .sending.portal import portal
from .tasks.declaration import registry
from .tasks.task import Task

__all__ = ["Pause", "pause", "pause_sync", "pauses", "pauses_sync", "resume", "resume_sync"]


async def pause(
    *,
    queue: str | None = None,
    task: str | Task[..., Any] | None = None,
    where: Mapping[str, object] | None = None,
    by: str | None = None,
) -> None:
    """Keep workers from starting calls of a queue or a task, whenever dispatched, until `resume`.

    When this returns, the pause holds for all workers; it survives restarts of workers and broker.
    Runs that have begun go on, and so does `dispatch`. A call that is held back takes no slot and
    uses up no attempt.

    Args:
        queue: The whole queue; with `task`, only that task's calls on this queue. Without it, the
            task's calls on all queues that the broker knows.
        task: The task, or its name.
        where: Only calls with these arguments: model instances, other values, or their text as
            `asynctasq dead list` shows it, such as `"Order#5"`.
        by: Who pauses, for `asynctasq status`; by default the user and the machine.

    Raises:
        ValueError: Neither a queue nor a task is given, `where` without a task, an empty name, text
            that cannot be encoded, or more than 64 KiB of it.
        ConfigurationError: The broker does not support pauses, the task has no such parameter, or
            there is no queue on which it could be paused: name one.
        SerializationError: A value in `where` cannot travel.
        BrokerUnavailable: Some queues may be paused and others not; call again.
    """
    app = current()
    one = _meant(app, queue, task, where)
    broker = _pausing(app)
    one = replace(one, since=time(), by=by or _whoever())
    value = one.encode()
    if len(value) > LONGEST_BYTES:
        raise ValueError(f"a pause of {len(value)} bytes: {LONGEST_BYTES} at most")
    queues = await _queues(app, broker, queue, one)
    if not queues:
        raise ConfigurationError(
            f"{broker.describe()} knows no queue, and no task {one.task!r} is registered here: "
            "name the queue"
        )
    for name in queues:
        await broker.pause(name, one.name, value)


async def resume(
    *,
    queue: str | None = None,
    task: str | Task[..., Any] | None = None,
    where: Mapping[str, object] | None = None,
) -> bool:
    """End the pause that `pause` with the same arguments began; calls that it held back run.

    Returns:
        Whether there was such a pause.

    Raises:
        ValueError: As for `pause`.
        ConfigurationError: As for `pause`.
        BrokerUnavailable: Some queues may be resumed and others not; call again.
    """
    app = current()
    one = _meant(app, queue, task, where)
    broker = _pausing(app)
    queues = await _queues(app, broker, queue, one)
    return any([await broker.resume(name, one.name) for name in queues])


async def pauses(queues: Sequence[str] | None = None) -> list[Pause]:
    """All pauses, by queue; none if the broker does not support them.

    Args:
        queues: Only pauses of these queues; asks the broker once for each.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    return await pauses_of(current().open_broker(), queues)


async def pauses_of(broker: Broker, queues: Sequence[str] | None = None) -> list[Pause]:
    """All pauses that a broker keeps, or those of some queues."""
    if not isinstance(broker, Pausing):
        return []
    found = []
    for queue in [s.name for s in await broker.stats()] if queues is None else queues:
        for name, value in sorted((await broker.pauses(queue)).items()):
            pause = Pause.decode(queue, value)
            found.append(pause or Pause(queue, name, by="someone unknown"))
    return found


def pause_sync(
    *,
    queue: str | None = None,
    task: str | Task[..., Any] | None = None,
    where: Mapping[str, object] | None = None,
    by: str | None = None,
) -> None:
    """`pause` for synchronous code."""
    portal.run(pause(queue=queue, task=task, where=where, by=by))


def resume_sync(
    *,
    queue: str | None = None,
    task: str | Task[..., Any] | None = None,
    where: Mapping[str, object] | None = None,
) -> bool:
    """`resume` for synchronous code."""
    return portal.run(resume(queue=queue, task=task, where=where))


def pauses_sync() -> list[Pause]:
    """`pauses` for synchronous code."""
    return portal.run(pauses())


def _meant(
    app: App,
    queue: str | None,
    task: str | Task[..., Any] | None,
    where: Mapping[str, object] | None,
) -> Pause:
    """The pause to begin or end; its queue is empty if it is for all queues."""
    if queue is None and task is None:
        raise ValueError("pause() and resume() take a queue, a task or both")
    if where and task is None:
        raise ValueError("`where` says which calls of a task are meant: name the task")
    if queue is not None and not is_queue_name(queue):
        raise ValueError(f"{queue!r} is not a queue name")
    known = registry.get(task) if isinstance(task, str) else task
    name = known.name if known is not None else str(task or "")
    if where and known is not None:
        check_where(known, where)
    texts = {key: text_for(value, key, app.adapters) for key, value in (where or {}).items()}
    _check_texts(task is not None, name, texts)
    return Pause(queue or "", name, texts)


def _check_texts(has_task: bool, task: str, texts: Mapping[str, str]) -> None:
    if (has_task and not task) or "" in texts:
        raise ValueError("the names of a task and of its arguments must not be empty")
    for text in (task, *texts, *texts.values()):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"not text that can be encoded: {text!a:.100}") from None


async def _queues(app: App, broker: Broker, queue: str | None, one: Pause) -> list[str]:
    """The queues on which to keep the pause: every queue that may hold matching calls."""
    if queue is not None:
        return [queue]
    queues = {stats.name for stats in await broker.stats()}
    if (task := registry.get(one.task)) is not None:
        queues.add(task.options(app.config.task_defaults).queue)
    return sorted(queues)


def _pausing(app: App) -> Any:
    broker = app.open_broker()
    if not isinstance(broker, Pausing):
        raise ConfigurationError(f"{broker.describe()} cannot pause")
    return broker


def _whoever() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # the user id has no name
        user = "?"
    return f"{user}@{socket.gethostname()}"
