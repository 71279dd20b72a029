"""What log records carry: the error of a failure, and the task on all that a task logs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from asynctasq import TaskLogFilter, current_message, task
from asynctasq.app import App

Work = Callable[..., Awaitable[None]]

application = logging.getLogger("shop.payments")


class Records(logging.Handler):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    handler = Records()
    handler.addFilter(TaskLogFilter())
    logging.getLogger().addHandler(handler)
    yield handler.kept
    logging.getLogger().removeHandler(handler)


async def test_a_failure_is_logged_with_its_exception(
    app: App, work: Work, records: list[logging.LogRecord]
) -> None:
    error = ValueError("as always")

    @task(max_attempts=2, retry_delay=0)
    async def fails() -> None:
        raise error

    await fails().dispatch()
    await work()
    logged = [(r.getMessage(), r.exc_info) for r in records]
    assert [message for message, _ in logged] == ["task retried", "task dead"]
    for _, exc_info in logged:
        assert exc_info is not None
        assert exc_info[1] is error


async def test_all_that_a_task_logs_says_which_task(
    app: App, work: Work, records: list[logging.LogRecord]
) -> None:
    @task(max_attempts=2, retry_delay=0)
    async def on_the_loop() -> None:
        application.warning("here")
        await asyncio.gather(inside())
        await asyncio.to_thread(application.warning, "there")
        if current_message().attempt == 1:
            raise ValueError

    async def inside() -> None:
        application.warning("inside")

    @task
    def in_a_thread() -> None:
        application.warning("in a thread", extra={"id": "its own"})

    application.warning("outside")
    handle = await on_the_loop().dispatch()
    await work()
    await in_a_thread().dispatch()
    await work()
    ours = [vars(r) for r in records if r.name == application.name]
    assert "task" not in ours[0]
    for attempt, logged in ((1, ours[1:4]), (2, ours[4:7])):
        assert [r["msg"] for r in logged] == ["here", "inside", "there"]
        for record in logged:
            told = (record["task"], record["id"], record["attempt"])
            assert told == (on_the_loop.name, handle.id, attempt)
    assert (ours[7]["task"], ours[7]["id"]) == (in_a_thread.name, "its own")


async def test_the_filter_leaves_records_of_other_threads_alone(
    app: App, work: Work, records: list[logging.LogRecord]
) -> None:
    @task
    async def starts_a_thread() -> None:
        thread = threading.Thread(target=application.warning, args=("of no task",))
        thread.start()
        await asyncio.to_thread(thread.join)

    await starts_a_thread().dispatch()
    await work()
    [record] = [r for r in records if r.getMessage() == "of no task"]
    assert not hasattr(record, "task")


def test_sentry_groups_failures_by_their_exception() -> None:
    program = Path(__file__).parent / "application" / "sentry_errors.py"
    environment = {**os.environ, "ASYNCTASQ_PLUGINS": ""}
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = {task.rpartition(".")[2]: rest for task, *rest in json.loads(done.stdout)}
    assert {name: kind for name, (kind, _) in told.items()} == {
        "divides": "ZeroDivisionError",
        "looks_up": "KeyError",
    }
    assert all(name in functions for name, (_, functions) in told.items())
