"""What becomes of tasks that fail: again later, or dead, by the task's own rules."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import pytest
from asynctasq import (
    AsyncTask,
    Retry,
    SyncTask,
    TaskConfig,
    TaskStatus,
    TaskTimeout,
    current_message,
    deadletters,
    task,
)
from asynctasq.app import App
from asynctasq.durations import LONGEST_SECONDS
from asynctasq.worker.retry import LONGEST_DELAY_SECONDS, postponement_delay, retry_delay

Work = Callable[..., Awaitable[None]]


def test_a_fixed_delay_stays() -> None:
    assert [retry_delay(n, 60, "fixed", False) for n in (1, 2, 50)] == [60, 60, 60]


def test_an_exponential_delay_doubles_up_to_a_day() -> None:
    assert [retry_delay(n, 10, "exponential", False) for n in (1, 2, 3)] == [10, 20, 40]
    assert retry_delay(10_000, 10, "exponential", False) == LONGEST_DELAY_SECONDS
    assert retry_delay(3, 2 * LONGEST_DELAY_SECONDS, "exponential", False) == (
        2 * LONGEST_DELAY_SECONDS
    )


def test_jitter_adds_up_to_half_and_differs() -> None:
    delays = [retry_delay(1, 10, "fixed", True) for _ in range(200)]
    assert all(10 <= d < 15 for d in delays)
    assert max(delays) - min(delays) > 3
    longest = [retry_delay(1, LONGEST_SECONDS, "fixed", True) for _ in range(20)]
    assert longest == [LONGEST_SECONDS] * 20


def test_a_database_that_is_away_is_asked_again_ever_more_rarely() -> None:
    assert postponement_delay(1) <= 0.5
    assert 7 < postponement_delay(1000) <= 10


async def test_a_failing_task_runs_max_attempts_times(any_app: App, work: Work) -> None:
    attempts: list[int] = []

    @task(max_attempts=3, retry_delay=0)
    async def fails() -> None:
        attempts.append(current_message().attempt)
        raise ValueError("as always")

    handle = await fails().dispatch()
    await work()
    assert attempts == [1, 2, 3]
    assert await handle.status() is TaskStatus.DEAD
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert (letter.attempts, letter.reason) == (3, "no attempt is left")
    assert letter.error == "ValueError: as always"
    assert "in fails" in letter.traceback


async def test_a_retry_waits_for_its_delay(app: App, work: Work) -> None:
    moments: list[float] = []

    @task(max_attempts=3, retry_delay=0.2, retry_jitter=False)
    async def fails_twice() -> None:
        moments.append(monotonic())
        if len(moments) < 3:
            raise ValueError

    await fails_twice().dispatch()
    await work()
    assert 0.2 <= moments[1] - moments[0] < 0.39
    assert moments[2] - moments[1] >= 0.4


async def test_only_the_named_errors_are_retried(app: App, work: Work) -> None:
    ran: list[str] = []

    @task(max_attempts=2, retry_delay=0, retry_on=(KeyError, OSError))
    async def picky(error: str) -> None:
        ran.append(error)
        raise {"key": KeyError, "file": FileNotFoundError, "value": ValueError, "retry": Retry}[
            error
        ]

    handles = {name: await picky(name).dispatch() for name in ("key", "file", "value", "retry")}
    await work()
    assert {name: ran.count(name) for name in handles} == {
        "key": 2,
        "file": 2,
        "value": 1,
        "retry": 2,
    }
    letters = [await deadletters.show(handles[name].id) for name in ("value", "key")]
    reasons = [letter and letter.reason for letter in letters]
    assert reasons == ["retry_on does not name the error", "no attempt is left"]


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("of a TaskGroup", errors)


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (group(KeyError("a"), group(Retry("b"), FileNotFoundError("c"))), 2),
        (group(Retry("b")), 2),
        (group(KeyError("a"), ValueError("b")), 1),
        (group(Retry("a"), group(ValueError("b"))), 1),
    ],
    ids=["all named", "retry", "one not named", "one not named inside"],
)
async def test_a_group_is_retried_if_all_its_errors_would_be(
    app: App, work: Work, error: Exception, times: int
) -> None:
    ran: list[int] = []

    @task(max_attempts=2, retry_delay=0, retry_on=(KeyError, OSError))
    async def fails() -> None:
        ran.append(current_message().attempt)
        raise error

    await fails().dispatch()
    await work()
    assert len(ran) == times


async def test_a_retry_in_a_task_group_waits_as_it_says(app: App, work: Work) -> None:
    moments: list[float] = []

    async def retry(delay: float | None) -> None:
        raise Retry("later", delay=delay)

    @task(max_attempts=2, retry_delay=3600, retry_on=())
    async def in_group() -> None:
        moments.append(monotonic())
        if len(moments) == 1:
            async with asyncio.TaskGroup() as group:
                for delay in (0.1, 0.3, None):
                    group.create_task(retry(delay))

    await in_group().dispatch()
    await work()
    assert 0.3 <= moments[1] - moments[0] < 60


async def test_a_group_may_be_named_itself(app: App, work: Work) -> None:
    ran: list[int] = []

    @task(max_attempts=2, retry_delay=0, retry_on=ExceptionGroup)
    async def fails() -> None:
        ran.append(1)
        raise group(ValueError("a"))

    await fails().dispatch()
    await work()
    assert len(ran) == 2


async def test_should_retry_is_not_asked_of_what_retry_on_leaves_out(app: App, work: Work) -> None:
    asked: list[str] = []

    class Picky(AsyncTask[None]):
        config: TaskConfig = {"retry_on": KeyError, "max_attempts": 5, "retry_delay": 0}

        async def execute(self) -> None:
            raise ValueError

        def should_retry(self, exc: BaseException) -> bool:
            asked.append("should_retry")
            return True

        def failed(self, exc: BaseException) -> None:
            asked.append("failed")

    await Picky().dispatch()
    await work()
    assert asked == ["failed"]


async def test_retry_takes_its_own_delay_and_uses_an_attempt(app: App, work: Work) -> None:
    moments: list[float] = []

    @task(max_attempts=2, retry_delay=3600)
    async def asks() -> None:
        moments.append(monotonic())
        raise Retry("not yet", delay=0.1)

    handle = await asks().dispatch()
    await work()
    assert len(moments) == 2
    assert 0.1 <= moments[1] - moments[0] < 5
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert "not yet" in letter.error


class Strange(Retry):
    def __init__(self, delay: Any) -> None:
        if delay != "none at all":
            self.delay = delay


@pytest.mark.parametrize("delay", [float("inf"), float("nan"), -1, "soon", "none at all"])
async def test_a_retry_with_a_delay_that_is_none_falls_back_to_the_policy(
    app: App, work: Work, delay: Any
) -> None:
    @task(max_attempts=2, retry_delay=0, retry_on=KeyError)
    async def strange() -> None:
        runs.append(1)
        raise Strange(delay)

    runs: list[int] = []
    handle = await strange().dispatch()
    await work()
    assert len(runs) == 2
    assert await handle.status() is TaskStatus.DEAD


async def test_a_call_overrides_the_policy(app: App, work: Work) -> None:
    ran: list[int] = []

    @task(max_attempts=9, retry_delay=3600)
    async def fails() -> None:
        ran.append(1)
        raise ValueError

    await fails().max_attempts(2).retry_after(0).dispatch()
    await work()
    assert len(ran) == 2


async def test_defaults_of_the_configuration_hold_for_tasks_that_say_nothing(
    configure: Callable[..., App], work: Work
) -> None:
    configure(task_defaults={"max_attempts": 1, "queue": "elsewhere"})
    ran: list[int] = []

    @task
    async def fails() -> None:
        ran.append(1)
        raise ValueError

    @task(max_attempts=2, retry_delay=0)
    async def fails_twice() -> None:
        ran.append(2)
        raise ValueError

    handle = await fails().dispatch()
    await fails_twice().dispatch()
    assert handle.queue == "elsewhere"
    await work()
    assert sorted(ran) == [1, 2, 2]


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(),
        StopAsyncIteration(),
        GeneratorExit(),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
        RecursionError(),
        MemoryError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_whatever_a_task_raises_fails_that_task_alone(
    app: App, work: Work, kind: str, error: BaseException
) -> None:
    @task(max_attempts=2, retry_delay=0)
    async def raises() -> None:
        raise error

    @task(max_attempts=2, retry_delay=0)
    def raises_in_thread() -> None:
        raise error

    ran: list[int] = []

    @task
    async def innocent() -> None:
        ran.append(1)

    handle = await (raises if kind == "loop" else raises_in_thread)().dispatch()
    await innocent().dispatch()
    await work()
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.attempts == 2
    assert ran == [1]


async def test_an_error_that_cannot_be_printed_fails_its_task(app: App, work: Work) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    @task(max_attempts=1, result_ttl=60)
    async def raises() -> None:
        raise Broken

    handle = await raises().dispatch()
    await work()
    assert await handle.status() is TaskStatus.DEAD
    with pytest.raises(Exception, match="Broken"):
        await handle.result(1)


async def test_a_task_that_cancels_itself_fails_and_is_not_run_for_ever(
    app: App, work: Work
) -> None:
    ran: list[int] = []

    @task(max_attempts=2, retry_delay=0)
    async def suicidal() -> None:
        ran.append(1)
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(10)

    handle = await suicidal().dispatch()
    await work()
    assert len(ran) == 2
    assert await handle.status() is TaskStatus.DEAD


# --- timeouts ---------------------------------------------------------------------------


async def test_a_coroutine_is_cancelled_at_its_timeout(any_app: App, work: Work) -> None:
    ended: list[str] = []

    @task(timeout=0.1, max_attempts=1, result_ttl=60)
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    handle = await slow().dispatch()
    await work()
    with pytest.raises(TaskTimeout, match=r"slow ran longer than 0\.1 s"):
        await handle.result(5)
    assert ended == ["cancelled"]


async def test_a_thread_is_interrupted_at_its_timeout(app: App, work: Work) -> None:
    stopped = threading.Event()

    @task(timeout=0.1, max_attempts=1, result_ttl=60)
    def spins() -> None:
        try:
            while True:
                sum(range(100))
        finally:
            stopped.set()

    handle = await spins().dispatch()
    await work()
    with pytest.raises(TaskTimeout, match=r"spins ran longer than 0\.1 s"):
        await handle.result(5)
    assert stopped.is_set()


async def test_a_timeout_is_retried_like_any_error(app: App, work: Work) -> None:
    attempts: list[int] = []

    @task(timeout=0.05, max_attempts=2, retry_delay=0, result_ttl=60)
    async def slow_at_first() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.sleep(60)
        return "done"

    handle = await slow_at_first().dispatch()
    await work()
    assert await handle.result(5) == "done"


async def test_a_timeout_error_of_the_tasks_own_stays_what_it_is(app: App, work: Work) -> None:
    @task(timeout=30, max_attempts=1, result_ttl=60)
    async def own() -> None:
        raise TimeoutError("the server's")

    handle = await own().dispatch()
    await work()
    with pytest.raises(TimeoutError, match="the server's") as caught:
        await handle.result(5)
    assert type(caught.value) is TimeoutError


async def test_threads_that_ignore_their_interruption_do_not_run_beside_the_next_attempt(
    app: App, work: Work
) -> None:
    running: list[int] = []
    most: list[int] = []

    @task(timeout=0.5, max_attempts=2, retry_delay=0)  # long enough for any thread to begin
    def stubborn() -> None:
        try:
            running.append(1)
            most.append(len(running))
            while True:
                sum(range(100))
        except TaskTimeout:
            deadline = monotonic() + 0.2
            while monotonic() < deadline:
                sum(range(100))
        running.pop()

    handle = await stubborn().dispatch()
    await work()
    assert most == [1, 1]
    assert await handle.status() is TaskStatus.DEAD


# --- hooks of class-based tasks ---------------------------------------------------------

seen: list[tuple[str, int, str]] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


class Watched(AsyncTask[None]):
    config: TaskConfig = {"max_attempts": 3, "retry_delay": 0, "result_ttl": 60}

    def __init__(self, error: str = "ValueError") -> None:
        self.error = error

    async def execute(self) -> None:
        seen.append(("execute", id(self), ""))
        self.state = "set while running"
        raise {"ValueError": ValueError, "KeyError": KeyError, "SystemExit": SystemExit}[
            self.error
        ](self.error)

    def should_retry(self, exc: BaseException) -> bool:
        seen.append(("should_retry", id(self), self.state))
        return isinstance(exc, ValueError)

    async def failed(self, exc: BaseException) -> None:
        seen.append(("failed", id(self), f"{self.state}: {exc}"))


class WatchedInThread(SyncTask[None]):
    config: TaskConfig = {"max_attempts": 2, "retry_delay": 0}

    def execute(self) -> None:
        seen.append(("execute", id(self), threading.current_thread().name))
        raise ValueError

    def should_retry(self, exc: BaseException) -> bool:
        seen.append(("should_retry", id(self), threading.current_thread().name))
        return True

    def failed(self, exc: BaseException) -> None:
        seen.append(("failed", id(self), threading.current_thread().name))


async def test_hooks_are_called_on_the_instance_that_ran(any_app: App, work: Work) -> None:
    await Watched().dispatch()
    await work()
    assert [what for what, _, _ in seen] == [
        *("execute", "should_retry", "execute", "should_retry", "execute", "failed")
    ]
    ids = [instance for _, instance, _ in seen]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[4] == ids[5]
    assert seen[-1][2] == "set while running: ValueError"


async def test_should_retry_ends_the_attempts(app: App, work: Work) -> None:
    handle = await Watched("KeyError").dispatch()
    await work()
    assert [what for what, _, _ in seen] == ["execute", "should_retry", "failed"]
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "should_retry said no"


async def test_hooks_of_sync_tasks_run_in_threads(app: App, work: Work) -> None:
    await WatchedInThread().dispatch()
    await work()
    assert [what for what, _, _ in seen] == [*("execute", "should_retry", "execute", "failed")]
    assert all(name.startswith("asynctasq") for _, _, name in seen)


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError], ids=repr)
async def test_a_hook_that_fails_changes_nothing(
    app: App, work: Work, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    class Careless(AsyncTask[None]):
        config: TaskConfig = {"max_attempts": 2, "retry_delay": 0}

        async def execute(self) -> None:
            seen.append(("execute", 0, ""))
            raise KeyError

        def should_retry(self, exc: BaseException) -> bool:
            raise error

        def failed(self, exc: BaseException) -> None:
            raise error

    handle = await Careless().dispatch()
    await work()
    assert len(seen) == 2
    assert await handle.status() is TaskStatus.DEAD
    assert [r.message for r in caplog.records if "failed" in r.message] == [
        "should_retry() of a task failed",
        "failed() of a task failed",
    ]
