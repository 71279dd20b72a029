"""Tasks in child processes: the same arguments, results, errors, retries and hooks."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import process_jobs
import pytest
from asynctasq import TaskCrashed, TaskFailed, TaskStatus, dispatch_many
from asynctasq.app import App
from process_jobs import Hooked, Item, OwnError, dies, exits, fails, item_of, third_time

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
