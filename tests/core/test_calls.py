"""`asynctasq.testing.Calls`: what a test sees of dispatched calls, and how it runs them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from math import inf
from time import monotonic
from typing import Any

import asynctasq
import asynctasq.pausing
import pytest
from asynctasq import AsyncTask, Retry, TaskStatus, Unique, current_message
from asynctasq.testing import Calls
from process_jobs import item_of
from toy_orm import Toy, User

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    ran.clear()


@asynctasq.task
async def greet(user: User, when: date | None = None) -> None:
    ran.append((user, when))


@asynctasq.task
def count(n: int, *, to: int) -> None:
    ran.append(n)
    if n < to:
        count(n + 1, to=to).dispatch_sync()


@asynctasq.task(retry_delay=60, max_attempts=3, result_ttl=60)
async def third_time() -> int:
    ran.append(current_message().attempt)
    if current_message().attempt < 3:
        raise LookupError("not yet")
    return 3


class Send(AsyncTask[None]):
    def __init__(self, address: str) -> None:
        self.address = address

    async def execute(self) -> None:
        ran.append(self.address)


async def test_calls_are_found_by_task_and_arguments_and_rows_are_compared(
    toy: Toy, asynctasq_calls: Calls
) -> None:
    calls = asynctasq_calls
    ada, grace = toy.save(User(1)), toy.save(User(2))
    assert not calls
    await greet(ada, when=date(2026, 1, 2)).dispatch()
    await greet(grace).on_queue("mail").delay(90).with_headers({"a": "b"}).dispatch()
    assert len(calls) == 2
    assert [sent.queue for sent in calls.of(greet)] == ["default", "mail"]
    first = calls.one(greet, user=User(1))
    assert first.arguments["when"] == date(2026, 1, 2)
    assert str(first) == f"{greet.name}(user=User#1, when=datetime.date(2026, 1, 2))"
    assert calls.one(greet, User(1), date(2026, 1, 2)) == first
    second = calls.one(greet, User(2))
    assert second.delay_seconds == pytest.approx(90, abs=0.1)
    assert second.headers == {"a": "b"}
    assert calls.of(count) == []
    assert ran == []


async def test_what_was_not_dispatched_is_an_error_that_says_what_was(
    toy: Toy, asynctasq_calls: Calls
) -> None:
    calls = asynctasq_calls
    with pytest.raises(AssertionError, match=r"no such call was dispatched.*nothing was"):
        calls.one(greet)
    await greet(toy.save(User(1))).dispatch()
    await greet(User(1)).dispatch()
    with pytest.raises(AssertionError, match=r"(?s)no such call .*User#2.*user=User#1"):
        calls.one(greet, user=User(2))
    with pytest.raises(AssertionError, match="2 such calls was dispatched"):
        calls.one(greet)
    with pytest.raises(TypeError, match="unexpected keyword argument 'usr'"):
        calls.one(greet, usr=User(1))
    with pytest.raises(TypeError, match="a task was expected"):
        calls.of(print)  # type: ignore[arg-type]


async def test_run_runs_what_is_due_with_fresh_rows(toy: Toy, asynctasq_calls: Calls) -> None:
    ada = toy.save(User(1, "Ada"))
    await greet(ada).dispatch()
    ada.name = "Lovelace"
    toy.save(ada)
    await asynctasq_calls.run()
    ((row, _),) = ran
    assert row is not ada
    assert row.name == "Lovelace"


@pytest.mark.usefixtures("app")
def test_run_sync_runs_what_tasks_dispatch_in_order(asynctasq_calls: Calls) -> None:
    count(1, to=3).dispatch_sync()
    count(11, to=12).dispatch_sync()
    asynctasq_calls.run_sync()
    assert ran == [1, 11, 2, 12, 3]
    assert len(asynctasq_calls.of(count)) == 5


@pytest.mark.usefixtures("app")
async def test_a_class_based_task_is_named_by_its_class(asynctasq_calls: Calls) -> None:
    await Send("ada@example.com").dispatch()
    assert asynctasq_calls.one(Send, "ada@example.com").arguments == {"address": "ada@example.com"}
    await asynctasq_calls.run()
    assert ran == ["ada@example.com"]


@pytest.mark.usefixtures("app")
async def test_delays_and_retries_pass_by_moving_the_time(asynctasq_calls: Calls) -> None:
    calls, began = asynctasq_calls, monotonic()
    handle = await third_time().delay(3600).dispatch()
    await calls.run()
    assert ran == []
    await calls.run(timedelta(hours=1))
    assert ran == [1]
    assert await handle.status() == TaskStatus.DELAYED
    await calls.run(30)
    assert ran == [1]
    await calls.run(inf)
    assert ran == [1, 2, 3]
    assert await handle.result() == 3
    assert monotonic() - began < 10


@pytest.mark.usefixtures("app")
async def test_what_is_dispatched_after_the_time_was_moved_counts_from_then(
    asynctasq_calls: Calls,
) -> None:
    calls = asynctasq_calls
    await calls.run(86_400)
    await Send("delayed").delay(60).dispatch()
    await Send("at").at(datetime.now(UTC) + timedelta(seconds=50)).dispatch()
    await calls.run(40)
    assert ran == []
    await calls.run(21)
    assert ran == ["at", "delayed"]


@pytest.mark.usefixtures("app")
async def test_the_error_of_a_call_that_failed_for_good_comes_out_of_run(
    asynctasq_calls: Calls,
) -> None:
    @asynctasq.task(max_attempts=1)
    async def fail(n: int) -> None:
        raise LookupError(n)

    await fail(1).dispatch()
    await Send("ada").dispatch()
    with pytest.raises(LookupError) as raised:
        await asynctasq_calls.run()
    assert raised.value.__traceback__ is not None
    assert ran == ["ada"]
    await fail(2).dispatch()
    await fail(3).dispatch()
    with pytest.raises(ExceptionGroup) as group:
        await asynctasq_calls.run()
    assert [e.args for e in group.value.exceptions] == [(2,), (3,)]
    handle = await fail(4).dispatch()
    await asynctasq_calls.run(raising=False)
    assert await handle.status() == TaskStatus.DEAD


@pytest.mark.usefixtures("app")
async def test_a_process_task_runs_here(asynctasq_calls: Calls) -> None:
    import os

    from process_jobs import Item

    handle = await item_of(Item("a"), 2).dispatch()
    await asynctasq_calls.run()
    item, pid, attempt = await handle.result()
    assert (item, pid, attempt) == (Item("aa"), os.getpid(), 1)


async def test_a_dispatch_that_waits_is_seen_after_the_commit_only(
    toy: Toy, asynctasq_calls: Calls
) -> None:
    ada = toy.save(User(1))
    toy.pending.append(ada)
    await greet(ada).dispatch()
    assert not asynctasq_calls
    await toy.commit_async()
    assert asynctasq_calls.one(greet, user=ada)


@pytest.mark.usefixtures("app")
async def test_a_task_may_wait_for_another_if_both_may_run(asynctasq_calls: Calls) -> None:
    @asynctasq.task(result_ttl=60)
    async def outer() -> int:
        return await (await third_time().retry_after(0).dispatch()).result()

    await outer().dispatch()
    await asynctasq_calls.run(inf, concurrency=2)
    assert ran == [1, 2, 3]


def test_whatever_is_configured_meanwhile_nothing_leaves_the_process(configure: Any) -> None:
    configure(driver="redis", redis="redis://127.0.0.1:1/0")
    with Calls() as calls:
        Send("before").dispatch_sync()
        asynctasq.init(driver="redis", redis="redis://127.0.0.1:2/0", outbox=True)
        Send("after").dispatch_sync()
        assert len(calls) == 2
    with Calls() as calls:
        assert not calls
    with pytest.raises(asynctasq.BrokerUnavailable, match=r"127\.0\.0\.1:2"):
        Send("outside").dispatch_sync()


def test_retry_says_when(asynctasq_calls: Calls, app: Any) -> None:
    @asynctasq.task
    def again() -> None:
        ran.append(current_message().attempt)
        if current_message().attempt == 1:
            raise Retry("later", delay=100)

    again().dispatch_sync()
    asynctasq_calls.run_sync(99)
    assert ran == [1]
    asynctasq_calls.run_sync(1)
    assert ran == [1, 2]


def test_the_plugin_and_calls_need_no_more_than_they_say() -> None:
    plugin = "import sys, asynctasq_pytest; assert 'asynctasq' not in sys.modules"
    calls = "import sys; from asynctasq.testing import Calls; assert 'pytest' not in sys.modules"
    for code in (plugin, calls):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@asynctasq.task(unique=Unique(by="document", on_conflict="replace"))
async def save(document: int, text: str) -> None: ...


@asynctasq.task(unique=True)
async def report(day: str) -> None: ...


async def test_a_call_for_which_another_stands_was_not_dispatched(asynctasq_calls: Calls) -> None:
    first = await report("today").dispatch()
    assert (await report("today").dispatch()).id == first.id
    await report("tomorrow").dispatch()
    assert [call.arguments["day"] for call in asynctasq_calls.of(report)] == ["today", "tomorrow"]


async def test_a_call_that_was_replaced_is_the_later_one(asynctasq_calls: Calls) -> None:
    await save(1, "a").delay(5).dispatch()
    await save(1, "b").delay(5).dispatch()
    assert asynctasq_calls.one(save).arguments == {"document": 1, "text": "b"}


async def test_what_is_held_back_does_not_run_and_is_not_waited_for(
    asynctasq_calls: Calls,
) -> None:
    await asynctasq.pausing.pause(queue="default")
    await count(1, to=1).dispatch()
    await asynctasq_calls.run()
    assert ran == []
    await asynctasq.pausing.resume(queue="default")
    await asynctasq_calls.run()
    assert ran == [1]
