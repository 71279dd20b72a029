"""Every call comes to exactly one end, whatever happens to the workers meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import pytest
from asynctasq import TaskHandle, TaskStatus, Worker, current_message, dispatch_many, task
from asynctasq.app import App

KINDS = ("fine", "thread", "fails", "second", "slow", "late", "cancelled")
CALLS = 300

begun: Counter[int] = Counter()
ended: Counter[int] = Counter()
attempts: dict[int, list[int]] = {}


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    begun.clear()
    ended.clear()
    attempts.clear()


def note(n: int) -> None:
    begun[n] += 1
    attempts.setdefault(n, []).append(current_message().attempt)


@task(result_ttl=60, max_attempts=3, retry_delay=0.01)
async def job(n: int, kind: str) -> int:
    note(n)
    await asyncio.sleep(random.random() / 100)
    if kind == "fails" or (kind == "second" and current_message().attempt == 1):
        ended[n] += 1
        raise ValueError(n)
    if kind == "slow":
        await asyncio.sleep(0.1)
    ended[n] += 1
    return n


@task(result_ttl=60)
def thread_job(n: int) -> int:
    note(n)
    time.sleep(random.random() / 100)
    ended[n] += 1
    return n


def call_of(n: int, kind: str) -> Any:
    if kind == "thread":
        return thread_job(n)
    call = job(n, kind).on_queue(random.choice(["default", "high", "low"]))
    return call.delay(random.random()) if kind in ("late", "cancelled") else call


async def _workers(until: asyncio.Event) -> None:
    """Run workers that are stopped after a moment, with or without time for their tasks."""
    while not until.is_set():
        worker = Worker(
            queues=["high", "default", "low"],
            concurrency=random.randint(1, 20),
            grace=random.choice([0, 0, 0.05, 1]),
        )
        run = asyncio.create_task(worker.run())
        await asyncio.sleep(random.random() / 4)
        worker.stop()
        await run


@pytest.mark.timeout(180)
async def test_every_call_ends_once_while_workers_come_and_go(any_app: App) -> None:
    kinds = {n: random.choice(KINDS) for n in range(CALLS)}
    sent = await dispatch_many([call_of(n, kind) for n, kind in kinds.items()])
    handles: dict[int, TaskHandle[Any]] = dict(enumerate(sent))
    cancelled = {n for n in kinds if kinds[n] == "cancelled" and await handles[n].cancel()}
    over = asyncio.Event()
    workers = [asyncio.create_task(_workers(over)) for _ in range(2)]
    try:
        outcomes = await asyncio.gather(
            *(handle.result(120) for handle in handles.values()), return_exceptions=True
        )
    finally:
        over.set()
        await asyncio.gather(*workers)
    for n, kind in kinds.items():
        _check(n, kind, outcomes[n], was_cancelled=n in cancelled)
        if n in cancelled:
            expected = TaskStatus.CANCELLED
        else:
            expected = TaskStatus.DEAD if kind == "fails" else TaskStatus.DONE
        assert await handles[n].status() is expected, (n, kind)


def _check(n: int, kind: str, outcome: object, *, was_cancelled: bool) -> None:
    if was_cancelled:
        assert type(outcome).__name__ == "TaskCancelled"
        assert begun[n] == 0
    elif kind == "fails":
        assert isinstance(outcome, ValueError)
        assert sorted(set(attempts[n])) == [1, 2, 3]
    else:
        assert outcome == n
    # An attempt that a stop interrupted runs again; one that ended does not. (A thread may be
    # interrupted behind its last line.)
    if kind in ("fine", "slow", "late") and not was_cancelled:
        assert ended[n] == 1, (n, kind, begun[n], ended[n])
    if kind == "second":
        assert ended[n] == 2, (n, kind, attempts[n])
    assert attempts.get(n, []) == sorted(attempts.get(n, []))
