"""Tasks in child processes: the same arguments, results, errors, retries and hooks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import process_jobs
import pytest
from asynctasq import (
    MessageError,
    Progress,
    TaskCrashed,
    TaskFailed,
    TaskStatus,
    Worker,
    deadletters,
    dispatch_many,
    task,
)
from asynctasq.app import App
from asynctasq.brokers import ConsumerOptions, WorkerInfo
from process_jobs import (
    Hooked,
    Item,
    OwnError,
    dies,
    exits,
    fails,
    item_of,
    tells,
    third_time,
    until_stopped,
)

Work = Callable[..., Awaitable[None]]


@pytest.fixture
def work_in_processes(work: Work) -> Work:
    async def run() -> None:
        await work(modules=["process_jobs"], concurrency=2)

    return run


async def test_arguments_and_results_travel_to_a_process_and_back(
    app: App, work_in_processes: Work
) -> None:
    handles = await dispatch_many([item_of(Item("a"), times=3), item_of(Item("b"))])
    await work_in_processes()
    (first, pid, attempt), (second, _, _) = [await h.result(5) for h in handles]
    assert (first, second, attempt) == (Item("aaa"), Item("b"), 1)
    assert type(first) is process_jobs.Item
    assert pid != os.getpid()


async def test_errors_come_back_as_they_were(app: App, work_in_processes: Work) -> None:
    own, left, died = [await call.dispatch() for call in (fails(), exits(), dies())]
    await work_in_processes()
    with pytest.raises(OwnError) as caught:
        await own.result(5)
    assert caught.value.args == ("in the child", 7)
    assert "in fails" in str(caught.value.__cause__)
    with pytest.raises(TaskFailed, match="SystemExit: 3"):
        await left.result(5)
    with pytest.raises(TaskCrashed, match="exited with code 7"):
        await died.result(5)


async def test_a_process_retries_under_the_key_of_its_worker(
    configure: Callable[..., App], work_in_processes: Work
) -> None:
    configure(signing_key="a key of more than 16 bytes")
    handle = await third_time().dispatch()
    await work_in_processes()
    assert await handle.result(5) == 3


async def test_a_task_in_a_process_learns_that_its_worker_stops(
    configure: Callable[..., App], work_in_processes: Work, becomes: Work, tmp_path: Path
) -> None:
    configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    handle = await until_stopped(str(tmp_path)).dispatch()
    worker = Worker(modules=["process_jobs"], concurrency=1)
    running = asyncio.create_task(worker.run())
    await becomes((tmp_path / "running").exists)
    worker.stop()
    await running
    assert await handle.status() is TaskStatus.WAITING
    await work_in_processes()
    assert await handle.result(5) == ("left", 1, False)


async def test_a_task_in_a_process_is_watched_to_its_end(
    configure: Callable[..., App],
    work_in_processes: Work,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    monkeypatch.setattr("asynctasq.sending.handle.WOKEN_SECONDS", 3600.0)
    handle = await tells().dispatch()

    async def last() -> list[Progress]:
        async with asyncio.timeout(30):
            return [update async for update in handle.watch()][-1:]

    seen, _ = await asyncio.gather(last(), work_in_processes())
    assert seen == [Progress(2, 2, "in a process")]


async def test_a_process_that_does_not_know_the_task_outlives_it(
    app: App, work_in_processes: Work
) -> None:
    @task(process=True, result_ttl=60, max_attempts=5, retry_delay=0)
    def only_here() -> None: ...

    unknown = await only_here().dispatch()
    await work_in_processes()
    letter = await deadletters.show(unknown.id)
    assert letter is not None
    assert (letter.reason, letter.attempts) == ("the message cannot be run", 1)
    assert "its process refused it: UnknownTask: the worker's modules register" in letter.error
    with pytest.raises(MessageError, match="UnknownTask"):
        await unknown.result(5)


async def test_a_dead_letter_of_a_process_tells_all_deliveries(
    app: App, work_in_processes: Work
) -> None:
    handle = await fails().dispatch()
    info = WorkerInfo("w", "h", 1, ("default",), 1, 0.0)
    consumer = app.open_broker().consumer(ConsumerOptions(info, ("default",), 0.01))
    await consumer.start()
    assert len(await consumer.take(1, 5)) == 1
    await work_in_processes()
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert (letter.error, letter.deliveries) == ("process_jobs.OwnError: ('in the child', 7)", 2)


async def test_hooks_run_in_the_process(app: App, work_in_processes: Work, tmp_path: Path) -> None:
    file = tmp_path / "hooks"
    handle = await Hooked(str(file)).dispatch()
    await work_in_processes()
    assert file.read_text().splitlines() == [
        *("execute", "should_retry OwnError('x')", "execute", "failed OwnError('x')")
    ]
    assert await handle.status() is TaskStatus.DEAD


async def test_execute_runs_a_process_task_here(app: App) -> None:
    _, pid, _ = await item_of(Item("a")).execute()
    assert pid == os.getpid()
