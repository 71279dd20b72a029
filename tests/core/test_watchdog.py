"""The last resort of a worker that cannot end: its process ends whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import asynctasq
import pytest
from asynctasq import Worker
from asynctasq.app import App
from asynctasq.supervision.watchdog import Watchdog


async def test_a_blocked_worker_ends_although_its_messages_cannot_be_given_back(
    configure: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    configure()
    worker, left = Worker(grace=0), threading.Event()
    asynctasq.init(driver="redis", redis="redis://127.0.0.1:1")
    Watchdog(asyncio.get_running_loop(), worker, left.set).stopped()
    assert left.wait(20)  # which blocks the event loop as a task might
    assert "run out by themselves" in caplog.text
