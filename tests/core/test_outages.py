"""Outages that escape a task: put off for `outage_for`, without using up an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import time

import asynctasq.adapters.plugins
import pytest
from asynctasq import (
    ConfigurationError,
    Message,
    Snooze,
    TaskStatus,
    current_message,
    deadletters,
    hookimpl,
    task,
)
from asynctasq.adapters.plugins import Adapters
from asynctasq.app import App

Work = Callable[..., Awaitable[None]]


class Away(Exception):
    """What the database of these tests says when it is away."""


class Database:
    """An adapter that knows outages, and nothing else."""

    def __init__(self) -> None:
        self.is_broken = False

    @hookimpl
    def is_outage(self, error: Exception) -> bool:
        if self.is_broken:
            raise RuntimeError("broken")
        return isinstance(error, Away)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, configure: Callable[..., App]) -> Database:
    database = Database()
    adapters = Adapters({"database": database})
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", adapters)
    configure()
    return database


async def test_an_outage_that_an_adapter_knows_uses_up_no_attempt(
    database: Database, work: Work
) -> None:
    attempts: list[int] = []

    @task(max_attempts=1)
    async def query() -> None:
        attempts.append(current_message().attempt)
        if len(attempts) < 3:
            raise Away

    handle = await query().dispatch()
    await work()
    assert attempts == [1, 1, 1]
    assert await handle.status() is TaskStatus.ENDED


async def test_an_outage_that_the_task_names_uses_up_no_attempt(any_app: App, work: Work) -> None:
    attempts: list[int] = []

    @task(max_attempts=1, retry_on_outage=(ConnectionError, TimeoutError))
    def call() -> None:
        attempts.append(current_message().attempt)
        if len(attempts) == 1:
            raise ConnectionResetError
        if len(attempts) == 2:
            raise TimeoutError

    handle = await call().dispatch()
    await work()
    assert attempts == [1, 1, 1]
    assert await handle.status() is TaskStatus.ENDED


async def test_other_errors_use_up_attempts(database: Database, work: Work) -> None:
    attempts: list[int] = []

    @task(max_attempts=2, retry_delay=0, retry_on_outage=ConnectionError)
    async def fails() -> None:
        attempts.append(current_message().attempt)
        raise FileNotFoundError

    await fails().dispatch()
    await work()
    assert attempts == [1, 2]


async def test_a_group_is_an_outage_if_all_in_it_are(database: Database, work: Work) -> None:
    seen: list[tuple[str, int]] = []
    groups = {
        "outage": ExceptionGroup("", [Away(), ExceptionGroup("", [ConnectionError()])]),
        "mixed": ExceptionGroup("", [Away(), ValueError()]),
    }

    @task(max_attempts=2, retry_delay=0, retry_on_outage=ConnectionError)
    async def raises(name: str) -> None:
        seen.append((name, current_message().attempt))
        if len([one for one, _ in seen if one == name]) == 1:
            raise groups[name]

    for name in groups:
        await raises(name).dispatch()
    await work()
    assert sorted(seen) == [("mixed", 1), ("mixed", 2), ("outage", 1), ("outage", 1)]


async def test_beyond_outage_for_it_is_a_failure_like_any_other(
    configure: Callable[..., App], work: Work
) -> None:
    configure(outage_for=0.001)
    attempts: list[int] = []

    @task(max_attempts=3, retry_delay=0, retry_on_outage=ConnectionError)
    async def call() -> None:
        attempts.append(current_message().attempt)
        await asyncio.to_thread(raises)

    def raises() -> None:
        raise ConnectionError("still away")

    handle = await call().dispatch()
    await work()
    assert attempts == [1, 1, 2, 3]
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "no attempt is left"


async def test_another_outage_is_counted_anew(configure: Callable[..., App], work: Work) -> None:
    configure(outage_for=0.001)
    seen: list[int] = []

    @task(max_attempts=2, retry_delay=0, retry_on_outage=ConnectionError)
    async def call() -> None:
        seen.append(current_message().attempt)
        match len(seen):
            case 1 | 3:
                raise ConnectionError
            case 2:
                raise Snooze(0)

    handle = await call().dispatch()
    await work()
    assert seen == [1, 1, 1, 1]
    assert await handle.status() is TaskStatus.ENDED


async def test_an_adapter_that_fails_to_tell_is_logged_and_changes_nothing(
    database: Database, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    database.is_broken = True

    @task(max_attempts=1)
    async def fails() -> None:
        raise ValueError

    handle = await fails().dispatch()
    await work()
    assert await handle.status() is TaskStatus.DEAD
    assert "is_outage of an adapter failed" in caplog.text


def test_the_beginning_of_an_outage_travels_with_the_message() -> None:
    message = Message("id", "t", b"", 1.0, outage_since_ms=int(time() * 1000))
    assert Message.decode(message.encode()) == message
    assert message.anew().outage_since_ms == 0


def test_only_exceptions_name_outages() -> None:
    with pytest.raises(ConfigurationError, match="retry_on_outage must be an exception class"):
        task(retry_on_outage=None)(lambda: None)  # type: ignore[call-overload]
