"""What a task costs, counted and not timed, so that a regression shows on any machine."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import asynctasq
import asynctasq.adapters.plugins
import asynctasq.app
import asynctasq.events.listening
import pytest
import redis.asyncio
from asynctasq import Ref, Worker, class_path, dispatch_many, hookimpl, task
from asynctasq.adapters.plugins import Adapters
from asynctasq.events import wanted

TASKS = 2000

#: Function calls of Python and of C for each no-op task; 94 and 112 when this was written.
MOST_CALLS_IN_WORKER = 112
MOST_CALLS_IN_DISPATCH = 115

#: The same in a worker that runs tasks with one model instance each, the adapter's own included;
#: 172 when this was written.
MOST_CALLS_WITH_AN_INSTANCE = 200


@task
async def noop() -> None: ...


class Row:
    """A model."""

    def __init__(self, pk: int) -> None:
        self.pk = pk


class RowAdapter:
    """An adapter whose queries cost nothing."""

    @hookimpl
    def is_model(self, obj: object) -> bool:
        return isinstance(obj, Row)

    @hookimpl
    def to_ref(self, obj: Row) -> Ref:
        return Ref(class_path(Row), obj.pk)

    @hookimpl
    async def fetch_many(self, refs: Sequence[Ref]) -> list[Row]:
        return [Row(ref.pk) for ref in refs]


@task
async def take_row(row: Row) -> None: ...


class Calls:
    """Counts function calls between `start` and `stop`, in this thread."""

    def __init__(self) -> None:
        self.count = 0

    def _note(self, frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self.count += 1

    def __enter__(self) -> Calls:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


@pytest.fixture
def configure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Any]]:
    """Core alone: adapters whose ORM other tests have imported put a scope round each run."""
    monkeypatch.setenv("ASYNCTASQ_PLUGINS", "")
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", None)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Nobody listens and nothing is logged, whatever tests before this one left.
    caplog.set_level(logging.WARNING, "asynctasq")
    monkeypatch.setattr(asynctasq.events.listening, "_listening", [])
    heard = dict(wanted)
    wanted.clear()
    yield asynctasq.init
    wanted.update(heard)


async def _calls_of_worker() -> float:
    with Calls() as calls:
        await Worker(concurrency=100, burst=True).run()
    return calls.count / TASKS


async def test_calls_per_task_in_a_worker_stay_few(
    configure: Callable[..., Any], start_redis: Any
) -> None:
    configure(driver="redis", redis=start_redis().url)
    await dispatch_many(noop() for _ in range(TASKS))
    assert await _calls_of_worker() < MOST_CALLS_IN_WORKER


async def test_calls_per_task_with_an_instance_stay_few(
    configure: Callable[..., Any], start_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = Adapters({"rows": RowAdapter()})
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", adapters)
    configure(driver="redis", redis=start_redis().url)
    await dispatch_many(take_row(Row(i)) for i in range(TASKS))
    assert await _calls_of_worker() < MOST_CALLS_WITH_AN_INSTANCE


async def test_calls_per_dispatch_stay_few(configure: Callable[..., Any], start_redis: Any) -> None:
    configure(driver="redis", redis=start_redis().url)
    await noop().dispatch()
    with Calls() as calls:
        await asyncio.gather(*(noop().dispatch() for _ in range(TASKS)))
    assert calls.count / TASKS < MOST_CALLS_IN_DISPATCH


@pytest.mark.parametrize(("concurrency", "most"), [(20, 0.5), (100, 0.2), (1000, 0.2)])
async def test_redis_commands_per_task_stay_few(
    configure: Callable[..., Any], start_redis: Any, concurrency: int, most: float
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)
    await dispatch_many(noop() for _ in range(TASKS))
    async with redis.asyncio.Redis.from_url(server.url) as client:
        before = (await client.info("stats"))["total_commands_processed"]
        await Worker(concurrency=concurrency, burst=True).run()
        after = (await client.info("stats"))["total_commands_processed"]
    assert (after - before) / TASKS < most


async def test_many_dispatches_at_once_share_round_trips(
    configure: Callable[..., Any], start_redis: Any
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)
    await noop().dispatch()
    async with redis.asyncio.Redis.from_url(server.url) as client:
        before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        await asyncio.gather(*(noop().dispatch() for _ in range(TASKS)))
        after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    assert after - before <= TASKS / 100


async def test_leases_that_ran_out_are_looked_for_by_one_worker_at_a_time(
    configure: Callable[..., Any], start_redis: Any
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)
    workers = [Worker(lease=8) for _ in range(6)]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    async with redis.asyncio.Redis.from_url(server.url) as client:

        async def calls(command: str) -> int:
            stats = await client.info("commandstats")
            return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

        async with asyncio.timeout(30):
            while await calls("xreadgroup") < 12 * len(workers):  # two for each sweep
                await asyncio.sleep(0.05)
        # Each worker asks once when it starts, whether it may; then one of them each two seconds.
        assert await calls("xinfo|consumers") <= len(workers) + 4
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
