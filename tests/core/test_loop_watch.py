"""An event loop that a task blocks, and a worker whose slots all wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import pytest
from asynctasq import TaskStatus, Worker, task
from asynctasq.app import App

Start = Callable[..., Worker]
Work = Callable[..., Awaitable[None]]
Becomes = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynctasq.worker.loop_watch.BLOCKED_SECONDS", 0.5)
    monkeypatch.setattr("asynctasq.worker.loop_watch.INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr("asynctasq.worker.waiting_parents.STUCK_SECONDS", 0.3)


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[logging.LogRecord]:
    return [r for r in caplog.records if part in r.getMessage()]


async def test_what_blocks_the_event_loop_is_logged_once_with_its_place(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    async def hogs() -> None:
        blocking_call()

    def blocking_call() -> None:
        time.sleep(2)

    handle = await hogs().dispatch()
    await work()
    [record] = messages(caplog, "blocks the event loop")
    assert "in blocking_call\n    time.sleep(2)" in record.getMessage()
    assert (vars(record)["task"], vars(record)["id"]) == (hogs.name, handle.id)


async def test_a_loop_that_is_only_busy_is_not_blocked(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    async def busy() -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            sum(range(10_000))
            await asyncio.sleep(0)

    await busy().dispatch()
    await work()
    assert messages(caplog, "blocks the event loop") == []


async def test_a_blocked_worker_shows_in_the_list_of_workers(
    any_app: App, start_worker: Start, becomes: Becomes
) -> None:
    worker = start_worker(lease=1.5)

    async def is_shown(is_blocked: bool) -> bool:
        return [w.is_blocked for w in await any_app.open_broker().workers()] == [is_blocked]

    await becomes(lambda: is_shown(False))
    worker._note_blocked(True)
    await becomes(lambda: is_shown(True))
    worker._note_blocked(False)
    await becomes(lambda: is_shown(False))


async def test_a_task_that_blocked_the_loop_past_its_timeout_does_not_go_unnoticed(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task(timeout=0.2, result_ttl=60)
    async def overruns() -> str:
        time.sleep(0.5)
        return "done"

    @task(timeout=5)
    async def in_time() -> None: ...

    handle = await overruns().dispatch()
    await in_time().dispatch()
    await work()
    [record] = messages(caplog, "ran past its timeout")
    assert record.levelno == logging.WARNING
    fields = vars(record)
    assert (fields["task"], fields["id"], fields["timeout"]) == (overruns.name, handle.id, 0.2)
    assert fields["seconds_over"] >= 0.2
    # It has been done, and would be done twice.
    assert await handle.result(5) == "done"


async def test_a_task_that_blocked_the_loop_past_its_timeout_is_cancelled_where_it_waits(
    app: App, work: Work
) -> None:
    waited: list[int] = []

    @task(timeout=0.2, max_attempts=1)
    async def overruns() -> None:
        time.sleep(0.5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waited.append(1)

    handle = await overruns().dispatch()
    await work()
    assert waited == []
    assert await handle.status() is TaskStatus.DEAD


async def test_slots_that_all_wait_for_tasks_of_the_same_queues_are_warned_of(
    app: App, start_worker: Start, becomes: Becomes, caplog: pytest.LogCaptureFixture
) -> None:
    @task(result_ttl=60)
    async def child() -> int:
        return 1

    @task(timeout=3, max_attempts=1)
    async def parent() -> None:
        handles = [await child().dispatch() for _ in range(2)]
        await asyncio.gather(*(handle.result() for handle in handles))

    for _ in range(3):
        await parent().dispatch()
    start_worker(concurrency=3)
    await becomes(lambda: messages(caplog, "every slot"))
    assert "queue and a worker of their own" in messages(caplog, "every slot")[0].getMessage()


async def test_waiting_for_other_queues_or_with_a_slot_left_is_not_warned_of(
    app: App, start_worker: Start, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task(result_ttl=60)
    async def child() -> int:
        await asyncio.sleep(0.6)
        return 1

    @task
    async def parent(queue: str) -> None:
        handles = [await child().on_queue(queue).dispatch() for _ in range(2)]
        for handle in handles:
            await handle.result()

    start_worker(queues=["elsewhere"])
    await parent("elsewhere").dispatch()
    await work(concurrency=1, queues=["default"])
    await parent("default").dispatch()
    await work(concurrency=2, queues=["default"])
    assert messages(caplog, "every slot") == []
