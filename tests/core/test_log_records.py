"""What log records carry: the error of a failure, and the task on all that a task logs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from asynctasq import TaskLogFilter, current_message, task
from asynctasq.app import App
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

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


class Kept(Transport):
    """Sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            self.events.append(event)


async def test_sentry_groups_failures_by_their_exception(app: App, work: Work) -> None:
    @task(max_attempts=1)
    async def divides() -> None:
        print(1 / 0)

    @task(max_attempts=1)
    async def looks_up() -> None:
        nothing: dict[str, int] = {}
        print(nothing["at all"])

    transport = Kept()
    sentry_sdk.init(dsn="https://key@localhost/1", transport=transport)
    try:
        await divides().dispatch()
        await looks_up().dispatch()
        await work()
    finally:
        sentry_sdk.init()
    raised = {e["exception"]["values"][-1]["type"]: e["extra"]["task"] for e in transport.events}
    assert raised == {"ZeroDivisionError": divides.name, "KeyError": looks_up.name}
    functions = [
        frame["function"]
        for event in transport.events
        for frame in event["exception"]["values"][-1]["stacktrace"]["frames"]
    ]
    assert {"divides", "looks_up"} <= set(functions)
