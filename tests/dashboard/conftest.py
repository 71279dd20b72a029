"""A dashboard served to a real browser, with the queues of an application behind it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asynctasq
import asynctasq.app
import pytest
import uvicorn
from asynctasq.tasks.task import registry
from asynctasq_dashboard import dashboard
from starlette.types import ASGIApp

from . import shop
from .browser import Browser

Serve = Callable[[ASGIApp], str]


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, task in shop.TASKS.items():
        monkeypatch.setitem(registry, name, task)


@pytest.fixture
def _queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("ASYNCTASQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="sqlite", sqlite=tmp_path / "queue.db", unknown_for=0.001)
    yield
    assert asynctasq.app._current is not None
    asynctasq.app._current.connections.leave_portal()


@pytest.fixture
def serve(_queue: None) -> Iterator[Serve]:
    """Serves applications in threads of their own; gives their addresses."""
    with ExitStack() as stack:
        yield lambda application: stack.enter_context(Server(application))


@pytest.fixture
def site(serve: Serve) -> str:
    """The address of a dashboard whose visitors may do everything."""
    return serve(dashboard(authorize=lambda request: True))


class Server:
    """A server in a thread of its own; gives its address."""

    def __init__(self, application: ASGIApp) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._socket]))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Browser]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        reason = "needs chromium and chromedriver (Debian: chromium, chromium-driver)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with Browser.started(program, driver) as browser:
        yield browser


@pytest.fixture
def browser(_chromium: Browser, site: str) -> Iterator[Browser]:
    """A browser that looks at the dashboard; fails if a page reports an error."""
    _chromium.site = site
    _chromium.begin()
    yield _chromium
    _chromium.end()
