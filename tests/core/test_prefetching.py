"""Taking ahead: messages that wait in a worker for its slots."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asynctasq.worker.prefetching
import pytest
from asynctasq import Worker, dispatch_many, task
from asynctasq.app import App
from asynctasq.brokers import Delivery
from asynctasq.worker.prefetching import AHEAD_SECONDS, ENOUGH, PATIENCE_SECONDS, Prefetched

Start = Callable[..., Worker]
Becomes = Callable[..., Awaitable[None]]

ran: list[int] = []
let_go = asyncio.Event()


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    global let_go
    ran.clear()
    let_go = asyncio.Event()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(asynctasq.worker.prefetching, "monotonic", lambda: now[0])
    return now


def _delivery(n: int) -> Delivery:
    return Delivery("default", str(n), b"", 1, None)


def _prove_short(ahead: Prefetched) -> None:
    for _ in range(50):
        ahead.note(AHEAD_SECONDS / 1000)


def test_nothing_is_taken_ahead_before_tasks_have_proved_short() -> None:
    ahead = Prefetched(10)
    assert ahead.room == 0
    _prove_short(ahead)
    assert ahead.room == ENOUGH - 10


def test_one_long_task_ends_taking_ahead() -> None:
    ahead = Prefetched(10)
    _prove_short(ahead)
    ahead.note(1.0)
    assert ahead.room == 0


def test_no_more_is_taken_ahead_than_slots_become_free_for() -> None:
    ahead = Prefetched(20)
    for _ in range(50):
        ahead.note(AHEAD_SECONDS)  # of twenty tasks at once, each takes its turn on the event loop
    assert 18 <= ahead.room <= 20
    for _ in range(50):
        ahead.note(AHEAD_SECONDS * 40)
    assert ahead.room == 0


def test_many_slots_need_nothing_ahead() -> None:
    ahead = Prefetched(ENOUGH)
    _prove_short(ahead)
    assert ahead.room == 0


def test_messages_come_out_in_order_as_slots_allow(clock: list[float]) -> None:
    ahead = Prefetched(2)
    ahead.put([_delivery(n) for n in range(5)])
    assert [d.id for d in ahead.take(2)] == ["0", "1"]
    assert [d.id for d in ahead.take(9)] == ["2", "3", "4"]
    assert not ahead


def test_what_waited_too_long_is_not_run_here_any_more(clock: list[float]) -> None:
    ahead = Prefetched(2)
    _prove_short(ahead)
    ahead.put([_delivery(n) for n in range(3)])
    assert ahead.overdue() == ()
    clock[0] += PATIENCE_SECONDS * 2
    assert ahead.take(2) == []
    assert [d.id for d in ahead.overdue()] == ["0", "1", "2"]
    assert not ahead
    assert ahead.room == 0


@task
async def short(n: int) -> None:
    ran.append(n)


@task
async def long() -> None:
    await let_go.wait()


async def test_what_a_busy_worker_took_ahead_is_run_by_another(
    any_app: App, start_worker: Start, becomes: Becomes
) -> None:
    await dispatch_many(short(n) for n in range(100))
    start_worker(concurrency=1)
    await becomes(lambda: len(ran) == 100)
    calls: list[Any] = [long(), *(short(n) for n in range(100, 105))]
    await dispatch_many(calls)
    start_worker(concurrency=1)
    await becomes(lambda: sorted(ran) == list(range(105)))
    let_go.set()


async def test_short_tasks_share_round_trips_with_few_slots(
    any_app: App, start_worker: Start, becomes: Becomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    consumer_class = type(any_app.open_broker().consumer(_options()))
    take = consumer_class.take

    async def noted(self: Any, limit: int, timeout_seconds: float) -> list[Delivery]:
        limits.append(limit)
        return await take(self, limit, timeout_seconds)

    monkeypatch.setattr(consumer_class, "take", noted)
    await dispatch_many(short(n) for n in range(1000))
    start_worker(concurrency=2)
    await becomes(lambda: len(ran) == 1000)
    assert max(limits) == ENOUGH
    assert len(limits) < 1000 / 4


def _options() -> Any:
    from asynctasq.brokers import ConsumerOptions, WorkerInfo

    info = WorkerInfo("w", "host", 1, ("default",), 1, 0.0)
    return ConsumerOptions(info, ("default",), 30.0)
