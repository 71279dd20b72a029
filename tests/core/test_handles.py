"""Handles: state, result, error and cancelling of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import pytest
from asynctasq import (
    BadSignature,
    InvalidMessage,
    PayloadTooLarge,
    RemoteTraceback,
    ResultNotKept,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskStatus,
    Worker,
    current_message,
    dispatch_many,
    task,
)
from asynctasq.app import App
from asynctasq.tasks.task import registry
from asynctasq.wire.encoding import no_plain_form
from asynctasq.wire.results import encode_error

Work = Callable[..., Awaitable[None]]
Start = Callable[..., Worker]


@task(result_ttl=60)
async def double(n: int) -> int:
    return 2 * n


@task
async def keeps_nothing() -> None: ...


class AppError(Exception):
    """An application's own error."""


class TellingError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}", code)
        self.code = code


class MakingError(Exception):
    """One whose making runs code."""

    made: list[object] = []

    def __new__(cls, *args: object) -> MakingError:
        cls.made.append(args)
        return super().__new__(cls, *args)


async def test_a_handle_is_its_id(any_app: App) -> None:
    handle = await double(1).dispatch()
    assert str(handle) == handle.id
    assert len(handle.id) == 32
    assert handle.id in repr(handle)


async def test_a_handle_is_made_again_from_its_id(any_app: App, work: Work) -> None:
    sent = await double(21).on_queue("other").dispatch()
    again = double.handle(sent.id, "other")
    assert await again.status() is TaskStatus.WAITING
    await work(queues=["other"])
    assert await again.result(5) == 42


async def test_the_state_follows_the_call(
    any_app: App, start_worker: Start, becomes: Callable[..., Awaitable[None]]
) -> None:
    running, proceed = asyncio.Event(), asyncio.Event()

    @task(result_ttl=60)
    async def waits() -> None:
        running.set()
        await proceed.wait()

    handle = await waits().dispatch()
    delayed = await double(1).delay(3600).dispatch()
    assert await handle.status() is TaskStatus.WAITING
    assert await delayed.status() is TaskStatus.DELAYED
    start_worker()
    async with asyncio.timeout(10):
        await running.wait()
    assert await handle.status() is TaskStatus.RUNNING
    assert not await handle.cancel()
    proceed.set()
    await handle.result(10)
    assert await handle.status() is TaskStatus.DONE


async def test_a_result_wakes_those_who_wait_for_it(any_app: App, start_worker: Start) -> None:
    proceed = asyncio.Event()
    finished: list[float] = []

    @task(result_ttl=60)
    async def waits() -> str:
        await proceed.wait()
        finished.append(monotonic())
        return "done"

    handle = await waits().dispatch()
    start_worker()
    waiting = [asyncio.create_task(handle.result(30)) for _ in range(3)]
    await asyncio.sleep(0.3)
    proceed.set()
    assert await asyncio.gather(*waiting) == ["done"] * 3
    assert monotonic() - finished[0] < 0.25


async def test_no_result_in_time_is_a_timeout(any_app: App) -> None:
    handle = await double(1).dispatch()
    started = monotonic()
    with pytest.raises(ResultTimeout, match=r"no result within 0\.1 s"):
        await handle.result(0.1)
    assert monotonic() - started < 5
    with pytest.raises(TimeoutError):
        await handle.result(0)


async def test_a_task_without_ttl_says_how_to_keep_its_result(app: App, work: Work) -> None:
    handle = await keeps_nothing().dispatch()
    with pytest.raises(ResultNotKept, match=r"keeps_nothing keeps no result.*result_ttl=seconds"):
        await handle.result(1)
    await work()
    assert await handle.status() is TaskStatus.ENDED


async def test_a_result_expires(app: App, work: Work) -> None:
    @task(result_ttl=0.05)
    async def brief() -> int:
        return 1

    handle = await brief().dispatch()
    await work()
    await asyncio.sleep(0.1)
    with pytest.raises(ResultTimeout):
        await handle.result(0)


async def test_a_result_that_has_expired_is_not_waited_for(
    any_app: App, work: Work, becomes: Callable[..., Awaitable[None]]
) -> None:
    @task(result_ttl=0.05)
    async def brief() -> int:
        return 1

    handle = await brief().dispatch()
    await work()
    broker = any_app.open_broker()

    async def is_expired() -> bool:
        return await broker.result(handle.queue, handle.id, 0) is None

    await becomes(is_expired)
    async with asyncio.timeout(30):
        with pytest.raises(ResultTimeout, match="its result has expired"):
            await handle.result()


async def failing(app: App, work: Work, error: Callable[[], BaseException]) -> BaseException:
    """What `result()` raises for a task that raised this."""

    @task(result_ttl=60, max_attempts=1)
    async def fails() -> None:
        raise error()

    handle = await fails().dispatch()
    await work()
    with pytest.raises(BaseException) as caught:
        await handle.result(5)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fails" in str(caught.value.__cause__)
    return caught.value


async def test_errors_are_raised_again_with_the_workers_traceback(any_app: App, work: Work) -> None:
    error = await failing(any_app, work, lambda: ValueError("x", 1))
    assert type(error) is ValueError
    assert error.args == ("x", 1)


@pytest.mark.parametrize(
    "made",
    [
        lambda: AppError("own"),
        lambda: TellingError(5),
        lambda: KeyError("k"),
        lambda: FileNotFoundError(2, "No such file"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        lambda: ZeroDivisionError(),
    ],
    ids=["own", "own with __init__", "key", "os", "unicode", "empty"],
)
async def test_an_error_of_a_loaded_class_is_that_error(
    app: App, work: Work, made: Callable[[], Exception]
) -> None:
    error = await failing(app, work, made)
    assert type(error) is type(made())
    assert error.args == made().args
    assert str(error) == str(made())


async def test_an_error_keeps_its_attributes_and_notes(app: App, work: Work) -> None:
    def made() -> Exception:
        error = TellingError(5)
        error.add_note("while testing")
        return error

    error = await failing(app, work, made)
    assert isinstance(error, TellingError)
    assert error.code == 5
    assert error.__notes__ == ["while testing"]


async def test_an_error_of_the_system_has_its_attributes(app: App, work: Work) -> None:
    error = await failing(app, work, lambda: FileNotFoundError(2, "No such file"))
    assert isinstance(error, FileNotFoundError)
    assert error.errno == 2


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: type("Gone", (Exception,), {"__module__": "not.loaded"})("x"), "not.loaded.Gone"),
        (lambda: AppError(object()), "AppError"),
        (lambda: SystemExit(3), "SystemExit: 3"),
        (lambda: KeyboardInterrupt(), "KeyboardInterrupt"),
        (lambda: MakingError("x"), "MakingError: x"),
        (lambda: ExceptionGroup("g", [ValueError()]), "ExceptionGroup: g"),
    ],
    ids=["not loaded", "argument", "exit", "interrupt", "own __new__", "group"],
)
async def test_an_error_that_cannot_be_raised_again_is_told(
    app: App, work: Work, made: Callable[[], BaseException], text: str
) -> None:
    error = await failing(app, work, made)
    assert type(error) is TaskFailed
    assert text in str(error)


async def test_reading_an_error_runs_none_of_its_code(app: App, work: Work) -> None:
    MakingError.made.clear()
    await failing(app, work, lambda: MakingError("x"))
    assert MakingError.made == [("x",)]


async def test_a_result_that_cannot_travel_is_a_dead_letter(app: App, work: Work) -> None:
    ran: list[int] = []

    @task(result_ttl=60)
    async def opaque() -> object:
        ran.append(1)
        return {"a": [object()]}

    handle = await opaque().dispatch()
    await work()
    assert ran == [1]
    assert await handle.status() is TaskStatus.DEAD
    with pytest.raises(Exception, match=r"result\['a'\]\[0\]: builtins.object"):
        await handle.result(5)


async def test_what_has_not_started_can_be_cancelled(any_app: App, work: Work) -> None:
    ran: list[int] = []

    @task(result_ttl=60)
    async def noted() -> None:
        ran.append(1)

    handle = await noted().dispatch()
    delayed = await noted().delay(3600).dispatch()
    waiting = asyncio.create_task(handle.result(30))
    await asyncio.sleep(0.05)
    assert await handle.cancel()
    assert await delayed.cancel()
    with pytest.raises(TaskCancelled):
        await waiting
    assert await handle.status() is TaskStatus.CANCELLED
    assert not await handle.cancel()
    await work()
    assert ran == []


async def test_cancelling_what_is_done_or_dead_does_nothing(any_app: App, work: Work) -> None:
    done = await double(1).dispatch()

    @task(max_attempts=1)
    async def fails() -> None:
        raise ValueError

    dead = await fails().dispatch()
    await work()
    assert not await done.cancel()
    assert not await dead.cancel()
    assert await done.result(1) == 2
    assert await dead.status() is TaskStatus.DEAD


async def test_a_result_is_bound_like_a_payload(configure: Callable[..., App], work: Work) -> None:
    configure(max_payload_bytes=5000)

    @task(result_ttl=60, max_attempts=1)
    async def gives(size: int, fails: bool) -> str:
        if fails:
            raise ValueError("x" * size)
        return "x" * size

    kept, large, failed = await dispatch_many(
        [gives(4000, False), gives(6000, False), gives(6000, True)]
    )
    await work()
    assert await kept.result(5) == "x" * 4000
    with pytest.raises(PayloadTooLarge, match=r"result: .* more than max_payload_bytes \(5000\)"):
        await large.result(5)
    assert await large.status() is TaskStatus.DEAD
    with pytest.raises(TaskFailed, match="ValueError: xxx"):
        await failed.result(5)


async def test_results_are_signed_and_read_only_when_the_key_fits(
    configure: Callable[..., App], work: Work
) -> None:
    app = configure(signing_key="a key of more than 16 bytes")
    handle = await double(2).dispatch()
    await work()
    assert await handle.result(5) == 4
    stored = await app.open_broker().result("default", handle.id, 0)
    assert stored is not None
    assert stored[:1] == b"\xc1"
    forged: Any = await double(1).dispatch()
    await app.open_broker().cancel("default", forged.id, stored[17:], 60)
    with pytest.raises(BadSignature, match="not signed"):
        await forged.result(1)


async def test_a_signed_result_stands_for_its_own_call_only(
    configure: Callable[..., App], start_worker: Start
) -> None:
    app = configure(signing_key="a key of more than 16 bytes")
    handle, other = await double(2).dispatch(), await double(3).delay(3600).dispatch()
    start_worker()
    assert await handle.result(10) == 4
    stored = await app.open_broker().result("default", handle.id, 0)
    await app.open_broker().cancel("default", other.id, stored, 60)
    with pytest.raises(BadSignature, match="another call's"):
        await other.result(1)


async def test_a_result_that_was_tampered_with_is_told_as_a_failure(app: App) -> None:
    broker = app.open_broker()
    stored = {
        "the stored result is damaged": b"\x81",
        "StopIteration: x": encode_error(StopIteration("x"), "", no_plain_form, (), "", 10_000),
    }
    for text, content in stored.items():
        handle = await double(1).delay(3600).dispatch()
        assert await broker.cancel("default", handle.id, content, 60)
        with pytest.raises(TaskFailed, match=text):
            await handle.result(5)


async def test_a_task_that_awaits_a_result_of_nobodys_fails_by_its_own_rules(
    configure: Callable[..., App], work: Work
) -> None:
    app = configure(signing_key="a key of more than 16 bytes")
    runs: list[int] = []
    other = await double(1).delay(3600).dispatch()
    await app.open_broker().cancel("default", other.id, b"unsigned", 60)

    @task(max_attempts=2, retry_delay=0)
    async def awaits() -> None:
        runs.append(1)
        await other.result(5)

    handle = await awaits().dispatch()
    await work()
    assert runs == [1, 1]
    assert await handle.status() is TaskStatus.DEAD


async def test_a_result_waits_across_attempts(any_app: App, start_worker: Start) -> None:
    attempts: list[int] = []

    @task(result_ttl=60, retry_delay=0.1, retry_jitter=False)
    async def second_time() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        return "done"

    handle = await second_time().dispatch()
    start_worker()
    assert await handle.result(30) == "done"


async def test_the_client_learns_of_a_message_that_was_refused(app: App, work: Work) -> None:
    """Whoever waits for a result must not wait for ever for a call that will never run."""

    @task(name="test-handles.refused", result_ttl=60)
    async def refused(n: int) -> None: ...

    handle = await refused(1).dispatch()

    @task(name="test-handles.other", result_ttl=60)
    async def other() -> None: ...

    registry["test-handles.refused"]._check = other._check
    await work()
    with pytest.raises(InvalidMessage, match="the arguments do not fit"):
        await handle.result(5)


@task(result_ttl=60, max_attempts=2, retry_delay=0)
async def fail_with_a_note() -> None:
    headers = current_message().headers
    assert isinstance(headers, dict)
    headers["runs"] = headers.get("runs", "") + "x"
    raise LookupError("nothing here")


async def test_a_failure_brings_the_headers_that_its_runs_have_left(
    app: App, start_worker: Start
) -> None:
    handle = await fail_with_a_note().with_headers({"trace": "1"}).dispatch()
    start_worker()
    with pytest.raises(LookupError) as raised:
        await handle.result(10)
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert raised.value.__cause__.headers == {"trace": "1", "runs": "xx"}
