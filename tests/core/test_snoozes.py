"""Tasks that put themselves off: later, without using up an attempt."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest
from asynctasq import (
    AsyncTask,
    ConfigurationError,
    Limit,
    Message,
    Snooze,
    TaskConfig,
    TaskStatus,
    current_message,
    deadletters,
    task,
)
from asynctasq.app import App

Work = Callable[..., Awaitable[None]]


async def test_a_task_that_snoozes_comes_again_without_using_up_an_attempt(
    any_app: App, work: Work
) -> None:
    seen: list[tuple[int, int]] = []
    moments: list[float] = []

    @task(max_attempts=1)
    async def waits() -> None:
        message = current_message()
        seen.append((message.attempt, message.snoozes))
        moments.append(monotonic())
        if message.snoozes < 3:
            raise Snooze(0.1)

    handle = await waits().dispatch()
    await work()
    assert seen == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert moments[-1] - moments[0] >= 0.3
    assert await handle.status() is TaskStatus.ENDED


async def test_snoozes_are_counted_over_attempts_and_beside_them(app: App, work: Work) -> None:
    seen: list[tuple[int, int]] = []

    @task(max_attempts=2, retry_delay=0)
    def alternates() -> None:
        message = current_message()
        seen.append((message.attempt, message.snoozes))
        if len(seen) % 2:
            raise Snooze(0)
        raise ValueError

    await alternates().dispatch()
    await work()
    assert seen == [(1, 0), (1, 1), (2, 1), (2, 2)]


async def test_beyond_max_snoozes_a_call_is_a_dead_letter_that_starts_anew(
    any_app: App, work: Work
) -> None:
    seen: list[int] = []

    @task(max_snoozes=2)
    async def waits_for_ever() -> None:
        seen.append(current_message().snoozes)
        raise Snooze(0, "not yet")

    handle = await waits_for_ever().dispatch()
    await work()
    assert seen == [0, 1, 2]
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "put off 2 times, as often as max_snoozes allows"
    assert letter.error.endswith("Snooze: not yet")
    await deadletters.retry(ids=[handle.id])
    await work()
    assert seen == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("key", [(), (b"k" * 32,)], ids=["unsigned", "signed"])
async def test_a_snoozed_message_keeps_its_headers_and_shows_no_others(
    configure: Callable[..., App], work: Work, key: tuple[bytes, ...]
) -> None:
    configure(**({"signing_key": key} if key else {}))
    seen: list[dict[str, str]] = []

    @task
    async def waits() -> None:
        seen.append(dict(current_message().headers))
        if not current_message().snoozes:
            raise Snooze(0)

    await waits().with_headers({"trace-id": "7"}).dispatch()
    await work()
    assert seen == [{"trace-id": "7"}] * 2


async def test_a_snooze_is_no_failure_that_anybody_hears_of(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    class Waits(AsyncTask[None]):
        config: TaskConfig = {"max_attempts": 1}

        async def execute(self) -> None:
            if not current_message().snoozes:
                raise Snooze(0)

        def should_retry(self, error: BaseException) -> bool:
            asked.append("should_retry")
            return False

        async def failed(self, error: BaseException) -> None:
            asked.append("failed")

    with caplog.at_level(logging.INFO, "asynctasq"):
        await Waits().dispatch()
        await work()
    assert asked == []
    (record,) = (r for r in caplog.records if r.getMessage() == "task postponed")
    assert (record.levelno, record.exc_info) == (logging.INFO, None)


async def test_a_group_of_snoozes_takes_the_longest(app: App, work: Work) -> None:
    moments: list[float] = []

    @task(max_attempts=1)
    async def waits() -> None:
        moments.append(monotonic())
        if len(moments) == 1:
            raise ExceptionGroup("of a TaskGroup", [Snooze(0), Snooze(0.2)])

    await waits().dispatch()
    await work()
    assert moments[1] - moments[0] >= 0.2


async def test_a_group_with_another_error_in_it_is_a_failure(app: App, work: Work) -> None:
    runs: list[int] = []

    @task(max_attempts=2, retry_delay=0)
    async def fails() -> None:
        runs.append(current_message().attempt)
        raise ExceptionGroup("of a TaskGroup", [Snooze(0), ValueError()])

    await fails().dispatch()
    await work()
    assert runs == [1, 2]


async def test_a_snooze_that_a_result_raises_puts_nobody_else_off(app: App, work: Work) -> None:
    runs: list[int] = []

    @task(max_snoozes=1, result_ttl=60)
    async def inner() -> None:
        raise Snooze(0)

    @task(max_attempts=1)
    async def outer(inner_id: str) -> None:
        runs.append(1)
        await inner.handle(inner_id).result(timeout=10)

    handle = await inner().dispatch()
    await work()
    dead = await outer(handle.id).dispatch()
    await work()
    assert runs == [1]
    assert await dead.status() is TaskStatus.DEAD


async def test_a_snoozed_call_frees_its_limit_meanwhile(app: App, work: Work) -> None:
    order: list[str] = []

    @task(limit=Limit(1))
    async def one_at_a_time(name: str) -> None:
        if name == "first" and not current_message().snoozes:
            raise Snooze(0.2)
        order.append(name)

    await one_at_a_time("first").dispatch()
    await one_at_a_time("second").dispatch()
    await work()
    assert order == ["second", "first"]


def test_what_cannot_be_waited_for_is_refused() -> None:
    for seconds in (-1, float("nan"), float("inf"), "60", None):
        with pytest.raises(ValueError, match="Snooze"):
            Snooze(seconds)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_snoozes must be a whole number"):
        task(max_snoozes=0)(lambda: None)


def test_only_workers_set_the_headers_that_count(app: App) -> None:
    @task
    async def any_task() -> None: ...

    with pytest.raises(ValueError, match="asynctasq-snoozes is set by workers only"):
        any_task().with_headers({"asynctasq-snoozes": "1"})
    message = Message("id", "task", b"", 1.0, headers={"a": "b"}, snoozes=7)
    assert Message.decode(message.encode()) == message
    assert message.headers == {"a": "b"}
