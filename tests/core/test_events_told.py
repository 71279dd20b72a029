"""What is told of each call: every transition once, with what belongs to it and nothing secret."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import time
from typing import Any

import asynctasq
import pytest
from asynctasq import Message, events, listen, unlisten
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.events import (
    Called,
    Dispatched,
    Event,
    RunFailed,
    RunPostponed,
    RunReleased,
    RunSkipped,
    RunStarted,
    RunSucceeded,
    WorkerStarted,
    WorkerStopped,
)
from asynctasq.sending.preparing import prepare
from asynctasq.wire.message import new_id
from process_jobs import OwnError, fails
from toy_orm import Toy, User


@pytest.fixture
def told() -> Iterator[Callable[[], list[Event]]]:
    """What listeners have heard so far."""
    heard: list[Event] = []
    listen(heard.append)

    def told() -> list[Event]:
        assert events.flush()
        return heard

    yield told
    unlisten(heard.append)


def kinds(told: list[Event]) -> list[str]:
    return [type(event).__name__ for event in told if isinstance(event, Called)]


@asynctasq.task(retry_delay=0, max_attempts=2)
async def fail() -> None:
    raise LookupError("no such thing")


@asynctasq.task
async def succeed(secret: str = "") -> None: ...


@pytest.mark.usefixtures("any_app")
async def test_a_call_is_told_of_from_its_dispatch_to_its_end(told: Any, work: Any) -> None:
    before = time()
    handle = await succeed("word").with_headers({"trace": "1"}).dispatch()
    await work(queues=["default"])
    worker_started, dispatched, started, succeeded, stopped = sorted(told(), key=_order)
    assert isinstance(worker_started, WorkerStarted)
    assert worker_started.queues == ("default",)
    assert stopped == WorkerStopped(at=stopped.at, worker=worker_started.worker)
    assert isinstance(dispatched, Dispatched)
    assert dispatched.payload_bytes > 0
    assert isinstance(started, RunStarted)
    assert isinstance(succeeded, RunSucceeded)
    for event in (dispatched, started, succeeded):
        assert (event.task, event.id, event.queue) == (succeed.name, handle.id, "default")
        assert event.headers == {"trace": "1"}
        assert "word" not in repr(event)
    assert (started.attempt, started.deliveries) == (1, 1)
    assert before <= started.enqueued_at <= started.at
    assert started.at - 1 <= succeeded.started_at <= succeeded.at <= time()


def _order(event: Event) -> int:
    order = [WorkerStarted, Dispatched, RunStarted, RunSucceeded, WorkerStopped]
    return order.index(type(event))


async def test_each_failure_is_told_with_the_exception(app: App, told: Any, work: Any) -> None:
    await fail().dispatch()
    await work()
    assert kinds(told()) == ["Dispatched", "RunStarted", "RunFailed", "RunStarted", "RunFailed"]
    first, last = (event for event in told() if isinstance(event, RunFailed))
    assert [(e.attempt, e.will_retry) for e in (first, last)] == [(1, True), (2, False)]
    for event in (first, last):
        assert isinstance(event.error, LookupError)
        assert event.error.__traceback__ is not None
        assert event.reason == "LookupError: no such thing"


async def test_a_run_says_when_it_was_to_begin(app: App, told: Any, work: Any) -> None:
    before = time()
    await succeed().delay(0.2).dispatch()
    await fail().dispatch()
    await work()
    started = [event for event in told() if type(event) is RunStarted]
    (delayed,) = (event for event in started if event.task == succeed.name)
    assert delayed.due is not None
    assert before + 0.199 <= delayed.due <= delayed.at
    first, retried = (event for event in started if event.task == fail.name)
    assert first.due is None
    assert retried.due is not None
    assert first.at <= retried.due + 0.001


@pytest.mark.parametrize("year", [1950, 2200, 9999])
async def test_any_moment_may_be_the_one_to_begin_at(app: App, year: int) -> None:
    moment = datetime(year, 1, 1, tzinfo=UTC)
    prepared = prepare(succeed().at(moment), app.config, app.adapters)
    message = Message.decode(prepared.outgoing.body)
    assert message.due_ms == max(0, moment.timestamp() * 1000)


async def test_a_call_in_a_child_process_is_told_of_once_with_its_error(
    app: App, told: Any, work: Any
) -> None:
    await fails().dispatch()
    await work(modules=["process_jobs"])
    assert kinds(told()) == ["Dispatched", "RunStarted", "RunFailed"]
    (failed,) = (event for event in told() if isinstance(event, RunFailed))
    assert type(failed.error) is OwnError
    assert failed.error.args == ("in the child", 7)
    assert "in fails" in str(failed.error.__cause__)


async def test_what_is_skipped_or_put_off_is_told_as_such(toy: Toy, told: Any, work: Any) -> None:
    read = asynctasq.task(on_missing="skip", name="read")(_read)
    await read(User(1)).dispatch()
    await work()
    assert kinds(told()) == ["Dispatched", "RunStarted", "RunSkipped"]
    (skipped,) = (event for event in told() if isinstance(event, RunSkipped))
    assert isinstance(skipped.error, asynctasq.ReferenceGone)
    toy.failing = 1
    await read(toy.save(User(2))).dispatch()
    await work()
    assert kinds(told())[3:] == [
        *("Dispatched", "RunStarted", "RunPostponed"),
        *("RunStarted", "RunSucceeded"),
    ]
    (postponed,) = (event for event in told() if isinstance(event, RunPostponed))
    assert isinstance(postponed.error, asynctasq.ReferenceUnavailable)
    assert postponed.delay_seconds > 0


async def _read(row: Any) -> None: ...


async def test_what_a_stopped_worker_gives_back_is_told(
    app: App, told: Any, start_worker: Any, becomes: Any
) -> None:
    @asynctasq.task
    async def stay() -> None:
        worker.stop()
        worker.stop()
        await becomes(lambda: False)

    await stay().dispatch()
    worker = start_worker()
    await becomes(lambda: "RunReleased" in kinds(told()))
    assert kinds(told()) == ["Dispatched", "RunStarted", "RunReleased"]
    (released,) = (event for event in told() if isinstance(event, RunReleased))
    assert released.started_at <= released.at


async def test_bytes_that_are_no_message_are_told_of_as_a_failure(
    app: App, told: Any, work: Any
) -> None:
    message = Message(new_id(), "nobody.registered", b"", 0.0)
    strangers = [Outgoing("default", message.id, message.encode()), Outgoing("default", "x", b"?")]
    await app.open_broker().put(strangers)
    await work()
    failures = [event for event in told() if isinstance(event, RunFailed)]
    assert [(e.task, e.will_retry) for e in failures] == [("", False), ("nobody.registered", False)]
    assert isinstance(failures[1].error, asynctasq.UnknownTask)
    assert sorted(kinds(told())) == ["RunFailed", "RunFailed", "RunPostponed"]


async def test_a_dispatch_that_waits_for_a_commit_is_told_of_after_it(toy: Toy, told: Any) -> None:
    read = asynctasq.task(name="read")(_read)
    user = toy.save(User(1))
    toy.pending.append(user)
    await read(user).dispatch()
    assert kinds(told()) == []
    await toy.commit_async()
    assert kinds(told()) == ["Dispatched"]


async def test_a_dispatch_that_fails_is_not_told_of(configure: Any, told: Any) -> None:
    configure(driver="redis", redis={"url": "redis://127.0.0.1:1/0", "timeout": 0.1})
    with pytest.raises(asynctasq.BrokerUnavailable):
        await succeed().dispatch()
    assert kinds(told()) == []


async def test_each_failure_is_logged_with_the_exception(
    app: App, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "asynctasq"):
        await fail().dispatch()
        await work()
    failures = [r for r in caplog.records if r.msg == "task %s" and r.levelno > logging.INFO]
    assert [r.levelno for r in failures] == [logging.WARNING, logging.ERROR]
    for failure in failures:
        assert failure.exc_info is not None
        assert failure.exc_info[0] is LookupError


async def test_the_worker_waits_for_its_listeners_but_not_for_ever(
    app: App, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynctasq.worker.worker.LAST_EVENTS_SECONDS", 0.1)
    go_on = threading.Event()

    def hang(event: WorkerStarted) -> None:
        go_on.wait(60)

    listen(hang, WorkerStarted)
    try:
        await work()
        assert not events.flush(0)
    finally:
        go_on.set()
        assert events.flush()
        unlisten(hang)


def test_a_script_that_ends_lets_its_listeners_hear_the_last_event() -> None:
    script = """
import asynctasq, time
from asynctasq.events import Dispatched
asynctasq.init(driver="memory")

@asynctasq.task
async def f(): ...

def hear(event):
    time.sleep(0.2)
    print("heard", event.task, flush=True)

asynctasq.listen(hear, Dispatched)
f().dispatch_sync()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "heard __main__.f\n"


def test_a_fork_hears_its_own_events_only(told: Any) -> None:
    heard: list[Event] = []
    listen(heard.append, WorkerStarted)
    try:
        events.tell(WorkerStarted(worker="parent"))
        assert events.flush()
        if (pid := os.fork()) == 0:
            heard.clear()
            events.tell(WorkerStarted(worker="child"))
            is_right = events.flush() and [e.worker for e in heard] == ["child"]  # type: ignore[attr-defined]
            os._exit(0 if is_right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        unlisten(heard.append)


def test_who_no_longer_listens_leaves_no_thread() -> None:
    heard: list[Event] = []
    listen(heard.append, WorkerStarted)
    before = set(threading.enumerate())
    events.tell(WorkerStarted(worker="w"))
    (thread,) = set(threading.enumerate()) - before
    unlisten(heard.append)
    thread.join(10)
    assert not thread.is_alive()
    assert len(heard) == 1
