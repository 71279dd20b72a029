"""Rows that a task waits for: its own only, and no longer than its timeout."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import asynctasq.adapters.plugins
import pytest
from asynctasq import (
    Ref,
    TaskStatus,
    Worker,
    deadletters,
    dispatch_many,
    hookimpl,
    listen,
    task,
    unlisten,
)
from asynctasq.adapters.plugins import Adapters
from asynctasq.app import App
from asynctasq.brokers import Listing, Outgoing
from asynctasq.events import RunFailed
from toy_orm import Order, Toy, User

Start = Callable[..., Worker]
Work = Callable[..., Awaitable[None]]

ran: list[str] = []


class Away(Toy):
    """A database whose table of users does not answer until it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.back = asyncio.Event()
        self.asked_for_users = asyncio.Event()
        self.cancelled = 0

    @hookimpl
    async def fetch_many(self, refs: Sequence[Ref]) -> list[object | None]:
        if refs[0].model_class() is User:
            self.asked_for_users.set()
            try:
                await self.back.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return await super().fetch_many(refs)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    ran.clear()
    away = Away()
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", Adapters({"toy": away}))
    away.save(User(1, "Ann"))
    away.save(Order(1, "shoes"))
    return away


@task
async def with_user(user: User) -> None:
    ran.append(user.name)


@task
async def with_order(order: Order) -> None:
    ran.append(order.name)


@task
async def with_both(user: User, order: Order) -> None:
    ran.append(user.name + order.name)


@task
async def without_rows() -> None:
    ran.append("none")


async def test_a_database_that_does_not_answer_holds_up_only_the_tasks_that_need_it(
    away: Away, any_app: App, start_worker: Start, becomes: Callable[..., Awaitable[None]]
) -> None:
    user, order = User(1, "Ann"), Order(1, "shoes")
    handles = await dispatch_many(
        [with_user(user), with_both(user, order), with_order(order), without_rows()]
    )
    start_worker()
    await becomes(lambda: sorted(ran) == ["none", "shoes"])
    assert [await h.status() for h in handles[:2]] == [TaskStatus.RUNNING] * 2
    away.back.set()
    await becomes(lambda: sorted(ran) == ["Ann", "Annshoes", "none", "shoes"])


async def test_the_timeout_counts_while_rows_are_fetched(
    away: Away, any_app: App, work: Work
) -> None:
    call = with_user(User(1, "Ann")).timeout(0.2).max_attempts(1)
    handle = await call.dispatch()
    before = time.monotonic()
    await work()
    assert time.monotonic() - before < 10
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert "TaskTimeout" in letter.error
    assert "its rows were not there within 0.2 s" in letter.error
    assert away.cancelled == 1


async def test_one_deadline_covers_fetching_and_running(away: Away, app: App, work: Work) -> None:
    @task(max_attempts=1, timeout=1.0)
    async def long(user: User) -> None:
        await asyncio.sleep(3600)

    await long(User(1, "Ann")).dispatch()
    before = time.monotonic()
    asyncio.get_running_loop().call_later(0.7, away.back.set)
    await work()
    assert 0.9 <= time.monotonic() - before < 1.6


async def test_a_query_goes_on_for_those_that_still_wait_for_it(
    away: Away, app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    user = User(1, "Ann")
    hasty = with_user(user).timeout(0.1).max_attempts(1)
    await dispatch_many([hasty, with_user(user)])
    asyncio.get_running_loop().call_later(0.5, away.back.set)
    caplog.set_level(logging.ERROR)
    await work()
    assert [r.message for r in caplog.records] == ["task dead"]
    assert ran == ["Ann"]
    assert away.cancelled == 0


async def test_a_stop_while_rows_are_fetched_gives_the_message_back(
    away: Away, any_app: App
) -> None:
    handle = await with_user(User(1, "Ann")).dispatch()
    worker = Worker(grace=0)
    run = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        await away.asked_for_users.wait()
        worker.stop()
        await run
    assert not worker.left_running
    assert away.cancelled == 1
    assert await handle.status() is TaskStatus.WAITING


async def test_an_adapter_that_is_cancelled_by_itself_postpones_the_task(
    away: Away, app: App, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [asyncio.CancelledError(), SystemExit(3)]

    async def fetch_many(refs: Sequence[Ref]) -> list[object | None]:
        if failures:
            raise failures.pop(0)
        return await Toy.fetch_many(away, refs)

    [adapter] = asynctasq.adapters.plugins.installed().loaded.values()
    monkeypatch.setattr(adapter, "fetch_many", fetch_many)
    await with_order(Order(1, "shoes")).retry_after(0).dispatch()
    await work()
    assert ran == ["shoes"]
    assert failures == []


async def test_a_call_of_which_one_row_is_no_model_s_ends_once(
    away: Away, app: App, work: Work
) -> None:
    """Once, though the fetch of its other row is under way then."""
    away.back.set()
    ended: list[RunFailed] = []

    def note(event: RunFailed) -> None:
        ended.append(event)

    listen(note, RunFailed)
    broker = app.open_broker()
    assert isinstance(broker, Listing)
    handle = await with_both(User(1, "Ann"), Order(1, "shoes")).dispatch()
    [held] = await broker.find_held(handle.queue, [handle.id])
    await handle.cancel()
    body = held.body.replace(b"toy_orm.Order", b"toy_orm.Ordex")
    await broker.put([Outgoing(handle.queue, handle.id, body)])
    try:
        await work()
    finally:
        unlisten(note)
    assert ran == []
    assert len(await deadletters.list_dead()) == 1
    assert len(ended) == 1
