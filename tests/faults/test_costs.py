"""What a task costs, counted and not timed, so that a regression shows on any machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asynctasq
import asynctasq.adapters.plugins
import asynctasq.app
import pytest
import redis.asyncio
from asynctasq import Worker, dispatch_many, task

TASKS = 2000

#: Named, since by default a worker serves the queues of all tasks that this process knows of.
QUEUES = ["default"]

#: Function calls of Python and of C for each call; what was counted when this was written.
MOST_CALLS = {
    "worker": 112,  # 94
    "worker-with-an-instance": 200,  # 172
    "worker-with-a-listener": 134,  # 115
    "dispatch": 117,  # 112; 115 on Python 3.14
}

PROGRAM = Path(__file__).parent / "programs" / "counted_calls.py"


@task
async def noop() -> None: ...


@task(result_ttl=60)
async def link(number: int) -> int:
    return number + 1


def counted(kind: str, url: str) -> float:
    """Calls for each call, as `programs/counted_calls.py` counts them."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), kind, url, str(TASKS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Core alone: adapters whose ORM other tests have imported put a scope round each run."""
    monkeypatch.setenv("ASYNCTASQ_PLUGINS", "")
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", None)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    return asynctasq.init


@pytest.mark.parametrize(("kind", "most"), MOST_CALLS.items())
def test_calls_for_each_task_stay_few(kind: str, most: float, start_redis: Any) -> None:
    assert counted(kind, start_redis().url) < most


@pytest.mark.parametrize(("concurrency", "most"), [(20, 0.5), (100, 0.2), (1000, 0.2)])
async def test_redis_commands_per_task_stay_few(
    configure: Callable[..., Any], start_redis: Any, concurrency: int, most: float
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)
    await dispatch_many(noop() for _ in range(TASKS))
    async with redis.asyncio.Redis.from_url(server.url) as client:
        before = (await client.info("stats"))["total_commands_processed"]
        await Worker(queues=QUEUES, concurrency=concurrency, burst=True).run()
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


async def test_tasks_without_flows_ask_nothing_for_them(
    configure: Callable[..., Any], start_redis: Any
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)
    await dispatch_many(noop() for _ in range(TASKS))
    async with redis.asyncio.Redis.from_url(server.url) as client:
        before, started = await client.info("commandstats"), time.monotonic()
        await Worker(queues=QUEUES, concurrency=100, burst=True).run()
        after, seconds = await client.info("commandstats"), time.monotonic() - started
    # Values of chains, batches, progress and checkpoints are written by HSET, and who waits is
    # told by PUBLISH, which a worker tries once at its start. It looks at values a few times a
    # second.
    looks = 30 + 10 * seconds
    for command, most in (("publish", 1), ("hset", 5), ("hget", looks), ("hgetall", looks)):
        used = [stats.get(f"cmdstat_{command}", {"calls": 0})["calls"] for stats in (before, after)]
        assert used[1] - used[0] <= most, command


async def test_a_link_of_a_chain_adds_two_round_trips(
    configure: Callable[..., Any], start_redis: Any
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)

    async def round_trips(links: int) -> float:
        call = link(0)
        for _ in range(links - 1):
            call = call.then(link)
        last = await call.dispatch()
        async with redis.asyncio.Redis.from_url(server.url) as client:
            before, started = await client.info("commandstats"), time.monotonic()
            await Worker(queues=QUEUES, burst=True).run()
            after, seconds = await client.info("commandstats"), time.monotonic() - started
        assert await last.result() == links
        calls = int(after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"])
        # What a worker looks after anyway, it does by the clock.
        return calls - 10 * max(0.0, seconds - 0.5)

    await round_trips(1)
    alone, chain = await round_trips(1), await round_trips(10)
    # Each is taken and settled, as any call; then the next is put, and the note of that let go.
    assert (chain - alone) / 9 <= 2 + 2, (alone, chain)


async def test_leases_that_ran_out_are_looked_for_by_one_worker_at_a_time(
    configure: Callable[..., Any], start_redis: Any
) -> None:
    server = start_redis()
    configure(driver="redis", redis=server.url)
    workers = [Worker(queues=QUEUES, lease=8) for _ in range(6)]
    started = time.monotonic()
    running = [asyncio.create_task(worker.run()) for worker in workers]
    async with redis.asyncio.Redis.from_url(server.url) as client:

        async def calls(command: str) -> int:
            stats = await client.info("commandstats")
            return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

        async with asyncio.timeout(30):
            while time.monotonic() - started < 5:  # ten sweeps of each worker
                await asyncio.sleep(0.1)
        # At its start each worker tries whether it may, and looks once; then one each two seconds,
        # or a few more where a machine is so busy that another takes the lead. All of them twice a
        # second would be sixty.
        asked = await calls("xinfo|consumers")
        assert asked <= 3 * len(workers) + 1 + (time.monotonic() - started) / 2
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
