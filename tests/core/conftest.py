"""An application for each test: its configuration, its brokers, its worker, a small ORM."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asynctasq
import asynctasq.adapters.plugins
import asynctasq.app
import pytest
import pytest_asyncio
import redis.asyncio
from asynctasq.adapters.plugins import Adapters
from asynctasq.app import App

from ..servers import redis_url

sys.path.insert(0, str(Path(__file__).parent / "application"))

from toy_orm import Toy


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., App]]:
    """`init` with the memory broker unless said otherwise; undone afterwards."""
    for name in [name for name in os.environ if name.startswith("ASYNCTASQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(asynctasq.app, "_current", None)

    def init(**options: Any) -> App:
        # What is not known is a dead letter soon, since workers in burst mode wait for it.
        asynctasq.init({"driver": "memory", "unknown_for": 0.001, **options})
        return asynctasq.app.current()

    yield init
    if asynctasq.app._current is not None:
        asynctasq.app._current.connections.leave_portal()


@pytest.fixture
def app(configure: Callable[..., App]) -> App:
    """An application on the memory broker, without adapters' models."""
    return configure()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, configure: Callable[..., App]) -> Toy:
    """The small ORM's adapter, the only one of an application on the memory broker."""
    toy = Toy()
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", Adapters({"toy": toy}))
    configure()
    return toy


@pytest_asyncio.fixture(params=["memory", "sqlite", "redis"])
async def any_app(
    request: pytest.FixtureRequest, configure: Callable[..., App], tmp_path: Path
) -> AsyncIterator[App]:
    """An application on each of the brokers in turn."""
    if request.param == "memory":
        yield configure()
    elif request.param == "sqlite":
        yield configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    else:
        url = redis_url()
        async with redis.asyncio.Redis.from_url(url) as client:
            prefix = f"test-{uuid4().hex}"
            # Hundreds of calls on a busy machine are no outage.
            config = {"url": url, "key_prefix": prefix, "timeout": 30.0}
            yield configure(driver="redis", redis=config)
            async for key in client.scan_iter(f"{prefix}:*", count=1000):
                await client.delete(key)


@pytest.fixture
def work() -> Callable[..., Awaitable[None]]:
    """Runs a worker until nothing is left; fails if that takes longer than a minute."""

    async def work(**options: Any) -> None:
        async with asyncio.timeout(60):
            await asynctasq.Worker(**{"burst": True, **options}).run()

    return work


@pytest_asyncio.fixture
async def start_worker() -> AsyncIterator[Callable[..., asynctasq.Worker]]:
    """Starts workers on the test's loop, stopped when the test ends."""
    running: list[tuple[asynctasq.Worker, asyncio.Task[None]]] = []

    def start(**options: Any) -> asynctasq.Worker:
        worker = asynctasq.Worker(**options)
        running.append((worker, asyncio.create_task(worker.run())))
        return worker

    yield start
    for worker, task in running:
        worker.stop()
        worker.stop()
        async with asyncio.timeout(30):
            await task


@pytest.fixture
def becomes() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds; fails after ten seconds."""

    async def becomes(condition: Callable[[], Any], timeout_seconds: float = 10) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            value = condition()
            if await value if isinstance(value, Awaitable) else value:
                return
            assert time.monotonic() < deadline, "the condition never held"
            await asyncio.sleep(0.01)

    return becomes
