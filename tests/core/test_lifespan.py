"""An application inside of a web server: its connections, and the worker that develops with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import asynctasq
import pytest
from asynctasq import ConfigurationError, TaskStatus, listen, task, unlisten
from asynctasq.app import App
from asynctasq.events import RunStarted

Becomes = Callable[..., Awaitable[None]]


@task(result_ttl=60)
async def double(number: int) -> int:
    return 2 * number


@task
async def wait_long() -> None:
    await asyncio.sleep(600)


async def test_it_closes_what_the_event_loop_has_open(configure: Callable[..., App]) -> None:
    app = configure()
    async with asynctasq.lifespan(object()):
        first = app.open_broker()
        assert app.open_broker() is first
    assert app.open_broker() is not first


async def test_a_worker_inside_runs_what_is_dispatched(any_app: App) -> None:
    async with asyncio.timeout(60), asynctasq.lifespan(worker=True):
        handle = await double(21).dispatch()
        assert await handle.result() == 42
    assert await any_app.open_broker().workers() == []


async def test_without_a_worker_nothing_runs(any_app: App) -> None:
    async with asynctasq.lifespan():
        handle = await double(21).dispatch()
        assert await handle.status() is TaskStatus.WAITING


async def test_the_worker_gives_back_what_it_cannot_end(any_app: App) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(event: RunStarted) -> None:
        loop.call_soon_threadsafe(begun.set)

    listen(note, RunStarted)
    try:
        async with asyncio.timeout(60):
            async with asynctasq.lifespan(worker=True, grace=0):
                handle = await wait_long().dispatch()
                await begun.wait()
            assert await handle.status() is TaskStatus.WAITING
    finally:
        unlisten(note)


async def test_the_server_starts_while_the_broker_is_away(
    configure: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    configure(driver="redis", redis={"url": "redis://127.0.0.1:1/0", "timeout": 0.5})
    async with asynctasq.lifespan():
        assert "the broker is away" in caplog.text


async def test_a_task_that_cannot_be_honoured_keeps_the_server_from_starting(
    configure: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    from asynctasq.tasks.declaration import registry

    configure()

    @task(cron="0 3 * * *")
    async def lacks_its_argument(number: int) -> None: ...

    try:
        with pytest.raises(ConfigurationError, match="lacks_its_argument"):
            async with asynctasq.lifespan(worker=True):
                pytest.fail("it has started")
    finally:
        registry.pop(lacks_its_argument.name)


async def test_a_worker_that_fails_is_told_of(
    configure: Callable[..., App],
    caplog: pytest.LogCaptureFixture,
    becomes: Becomes,
    tmp_path: Path,
) -> None:
    (tmp_path / "queue.db").write_text("no database, but longer than the header of one" * 10)
    configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    caplog.set_level(logging.ERROR)
    with pytest.raises(asynctasq.AsynctasqError):
        async with asynctasq.lifespan(worker=True):
            await becomes(lambda: "the worker inside of the server failed" in caplog.text)
