"""How far calls have come, told by tasks and read by handles."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asynctasq
import pytest
from asynctasq import Progress, progress, progress_sync, task
from asynctasq.app import App
from asynctasq.brokers import Remembering
from asynctasq.cli.application import how_far
from asynctasq.cli.queue_status import look, tables

go_on: asyncio.Event
go_on_in_thread = threading.Event()


@pytest.fixture(autouse=True)
def events() -> Iterator[None]:
    """What the tasks wait for."""
    global go_on
    go_on = asyncio.Event()
    go_on_in_thread.clear()
    yield
    go_on_in_thread.set()


@task(result_ttl=60)
async def steps() -> str:
    for n in range(1000):
        await progress(n, 2000, "first half")
    await go_on.wait()
    await progress(2000, 2000)
    return "whole"


@task
def in_thread() -> None:
    progress_sync(1, note="in a thread")
    go_on_in_thread.wait()


async def test_progress_is_seen_while_the_task_runs_and_watched_to_its_end(
    any_app: App, start_worker: Callable[..., asynctasq.Worker]
) -> None:
    handle = await steps().dispatch()
    assert await handle.progress() is None
    start_worker()
    seen = []
    async with asyncio.timeout(10):
        async for update in handle.watch():
            seen.append(update)
            go_on.set()
    # A thousand at once: the first went to the broker, and the one that says that all is done.
    assert seen == [Progress(0, 2000, "first half"), Progress(2000, 2000)]
    assert [one.fraction for one in seen] == [0.0, 1.0]
    assert await handle.result() == "whole"


async def test_a_def_task_tells_its_progress_too(
    any_app: App,
    start_worker: Callable[..., asynctasq.Worker],
    becomes: Callable[..., Awaitable[None]],
) -> None:
    handle = await in_thread().dispatch()
    start_worker()

    async def is_told() -> bool:
        return await handle.progress() == Progress(1, None, "in a thread")

    await becomes(is_told)
    assert Progress(1).fraction is None
    status = await look(any_app, any_app.open_broker())
    assert [(one.id, one.progress) for one in status.progress] == [
        (handle.id, Progress(1, None, "in a thread"))
    ]
    assert len(tables(status)) == 3
    watching = asyncio.create_task(asyncio.to_thread(lambda: [*handle.watch_sync()]))
    go_on_in_thread.set()
    async with asyncio.timeout(10):
        assert [one.note for one in await watching] == ["in a thread"]
        assert [one.note async for one in handle.watch()] == ["in a thread"]
    assert (await look(any_app, any_app.open_broker())).progress == []


@task(max_attempts=1)
async def two_steps(fails: bool = False) -> None:
    await progress(1, 2)
    await go_on.wait()
    await progress(2, 2)
    if fails:
        raise ValueError("failed")


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_watched_wakes_the_watcher_who_does_not_poll(
    any_app: App,
    start_worker: Callable[..., asynctasq.Worker],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    monkeypatch.setattr("asynctasq.sending.handle.WOKEN_SECONDS", 3600.0)
    monkeypatch.setattr("asynctasq.sending.handle.UNWOKEN_SECONDS", 3600.0)
    handle = await two_steps(fails).dispatch()
    watching = handle.watch()
    async with asyncio.timeout(10):
        first = asyncio.ensure_future(anext(watching))
        await asyncio.wait([first], timeout=0.05)
        start_worker()
        assert await first == Progress(1, 2)
        go_on.set()
        assert [one async for one in watching] == [Progress(2, 2)]
    assert await handle.progress() == Progress(2, 2)


async def test_a_call_that_tells_nothing_is_watched_to_its_end_too(
    any_app: App, start_worker: Callable[..., asynctasq.Worker]
) -> None:
    handle = await silent().dispatch()
    start_worker()
    async with asyncio.timeout(10):
        assert [one async for one in handle.watch()] == []
    assert await handle.status() is asynctasq.TaskStatus.ENDED


@task
async def silent() -> None: ...


async def test_it_needs_a_task_and_does_nothing_without_a_queue(any_app: App) -> None:
    with pytest.raises(LookupError, match="no task is running here"):
        await progress(1)
    go_on.set()
    assert await steps().execute() == "whole"
    broker = any_app.open_broker()
    assert isinstance(broker, Remembering)
    assert dict(await broker.values("", "progress")) == {}


async def test_progress_is_told_in_numbers(app: App) -> None:
    @task
    async def wrong(done: Any) -> None:
        await progress(1, done)

    for done in ("5", b"5", [5]):
        with pytest.raises(TypeError, match=r"progress\(\) takes numbers"):
            await wrong(done).execute()


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x93\xa1x\xc0\xa0", b"\x92\x01\x02"])
async def test_what_is_no_progress_in_the_broker_is_none(app: App, value: bytes) -> None:
    handle = await steps().dispatch()
    broker = app.open_broker()
    assert isinstance(broker, Remembering)
    await broker.set_value("default", "progress", handle.id, value)
    assert await handle.progress() is None


@pytest.mark.parametrize(
    ("told", "text"),
    [(Progress(7, 100, "working"), "7 of 100 working"), (Progress(12000.5, None, ""), "12,000.5")],
)
def test_people_read_how_far_a_call_is(told: Progress, text: str) -> None:
    assert how_far(told) == text
