"""Calls that are cancelled while they run: ended within a second, whatever runs them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asynctasq
import pytest
from asynctasq import AsyncTask, TaskCancelled, TaskConfig, TaskHandle, TaskStatus, task
from asynctasq.app import App
from asynctasq.brokers import Remembering

Starts = Callable[..., asynctasq.Worker]
Becomes = Callable[..., Awaitable[None]]

seen: list[str] = []
may_end = threading.Event()


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """What the tasks note, and wait for."""
    seen.clear()
    may_end.clear()
    yield
    may_end.set()


@task(result_ttl=60, max_attempts=3)
async def coroutine() -> None:
    seen.append("begun")
    try:
        await asyncio.sleep(60)
    finally:
        seen.append("ended")


@task(max_attempts=3)
def thread() -> None:
    seen.append("begun")
    try:
        while not may_end.is_set():
            time.sleep(0.01)
    finally:
        seen.append("ended")


@task
async def stubborn() -> None:
    """Fails in its own way when it is cancelled, after a while in a thread."""
    seen.append("begun")
    try:
        await asyncio.to_thread(may_end.wait)
    finally:
        raise ValueError("not like this")


class Watched(AsyncTask[None]):
    """Tells what it hears of its end."""

    config: TaskConfig = {"result_ttl": 60}

    async def execute(self) -> None:
        seen.append("begun")
        await asyncio.sleep(60)

    def failed(self, exc: BaseException) -> None:
        seen.append(type(exc).__name__)


async def is_cancelled(handle: TaskHandle[Any]) -> bool:
    return await handle.status() == TaskStatus.CANCELLED


@pytest.mark.parametrize("call", [coroutine, thread], ids=["coroutine", "thread"])
async def test_what_runs_is_ended_within_a_second(
    any_app: App, start_worker: Starts, becomes: Becomes, call: Any
) -> None:
    handle = await call().dispatch()
    start_worker()
    await becomes(lambda: seen == ["begun"])
    assert not await handle.cancel()
    since = time.monotonic()
    assert await handle.cancel(running=True)
    await becomes(lambda: is_cancelled(handle))
    assert time.monotonic() - since < 1
    assert seen == ["begun", "ended"]
    assert not await handle.cancel(running=True)


async def test_whoever_waits_for_the_result_is_told(
    any_app: App, start_worker: Starts, becomes: Becomes
) -> None:
    handle = await coroutine().dispatch()
    start_worker()
    await becomes(lambda: seen == ["begun"])
    result = asyncio.create_task(handle.result(10))
    await handle.cancel(running=True)
    with pytest.raises(TaskCancelled):
        await result


async def test_a_class_hears_of_it(any_app: App, start_worker: Starts, becomes: Becomes) -> None:
    handle = await Watched().dispatch()
    start_worker()
    await becomes(lambda: seen == ["begun"])
    await handle.cancel(running=True)
    await becomes(lambda: is_cancelled(handle))
    assert seen == ["begun", "TaskCancelled"]


async def test_it_is_not_cancelled_before_its_threads_have_ended_nor_run_again_for_its_error(
    any_app: App, start_worker: Starts, becomes: Becomes
) -> None:
    handle = await stubborn().dispatch()
    worker = start_worker()
    await becomes(lambda: seen == ["begun"])
    await handle.cancel(running=True)
    await becomes(lambda: _is_noticed(worker))
    assert await handle.status() == TaskStatus.RUNNING
    may_end.set()
    await becomes(lambda: is_cancelled(handle))
    assert seen == ["begun"]


def _is_noticed(worker: asynctasq.Worker) -> bool:
    assert worker._slots is not None
    return any(job.is_cancelled for job in worker._slots._jobs.values())


async def test_what_waits_is_removed_and_what_has_ended_stands(
    any_app: App, work: Callable[..., Awaitable[None]]
) -> None:
    late = await coroutine().delay(60).dispatch()
    assert await late.cancel(running=True)
    assert await late.status() == TaskStatus.CANCELLED
    may_end.set()
    done = await thread().dispatch()
    await work()
    assert not await done.cancel(running=True)
    broker = any_app.open_broker()
    assert isinstance(broker, Remembering)
    assert dict(await broker.values("default", "cancelled")) == {}


async def test_others_go_on_and_the_note_is_taken_away(
    any_app: App, start_worker: Starts, becomes: Becomes
) -> None:
    first, second = [await coroutine().dispatch() for _ in range(2)]
    start_worker()
    await becomes(lambda: seen == ["begun", "begun"])
    await first.cancel(running=True)
    await becomes(lambda: is_cancelled(first))
    broker = any_app.open_broker()
    assert isinstance(broker, Remembering)

    async def is_clean() -> bool:
        return not await broker.values("default", "cancelled")

    await becomes(is_clean)
    assert await second.status() == TaskStatus.RUNNING
    assert seen == ["begun", "begun", "ended"]
    await second.cancel(running=True)
    await becomes(lambda: is_cancelled(second))


async def test_synchronous_code_ends_calls_too(
    configure: Callable[..., App], tmp_path: Path, start_worker: Starts, becomes: Becomes
) -> None:
    configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    handle = await coroutine().dispatch()
    start_worker()
    await becomes(lambda: seen == ["begun"])
    assert await asyncio.to_thread(handle.cancel_sync, running=True)
    await becomes(lambda: is_cancelled(handle))
