"""What policies cost: drains of no-op tasks with a limit or a rate, unique dispatches, long lines.

hatch run bench:policies [--broker NAME] [--repeat N] [--n N] [--largest N] [--part NAME ...]

Everything is compared with the same task without a policy, in the same run. The limits and rates
let everything pass, since what they hold up is what they are for. A worker runs in this process.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import asynctasq
import redis
import uvloop
from asynctasq import Limit, Rate, Unique

from bench import report
from bench.servers import postgres_database, redis_server

DRAINS = [
    report.Column("rate", "drain, tasks/s", 0, True),
    report.Column("cpu_us", "worker CPU per task, µs", 1, False),
    report.Column("server_us", "Redis CPU per task, µs", 1, False),
    report.Column("commands", "Redis commands per task", 3),
]
DISPATCHES = [
    report.Column("one", "dispatch, one at a time, per s", 0, True),
    report.Column("many", "dispatch_many of 500, per s", 0, True),
]
BROKERS = ("redis", "postgres", "sqlite", "memory")
PARTS = {"drains": DRAINS, "dispatches": DISPATCHES, "lines": DRAINS}
#: Keys of the drains, and of the short lines.
KEYS, FEW_KEYS = 100, 10

_count = 0
_last = 0
_worker: asynctasq.Worker


def _tick() -> None:
    global _count
    _count += 1
    if _count == _last:
        _worker.stop()


@asynctasq.task
async def plain(key: int) -> None:
    _tick()


@asynctasq.task(limit=Limit(50, by="key"))
async def limited(key: int) -> None:
    _tick()


@asynctasq.task(limit=Limit(1, by="key"))
async def serial(key: int) -> None:
    _tick()


@asynctasq.task(rate=Rate(1_000_000, seconds=1, by="key", burst=1_000))
async def rated(key: int) -> None:
    _tick()


@asynctasq.task(unique=Unique(by="key"))
async def unique(key: int) -> None:
    _tick()


TASKS: dict[str, Any] = {"without": plain, "limit": limited, "rate": rated, "unique": unique}


class Server:
    """CPU and commands of a Redis server, from its own counters; zeros where there is none."""

    def __init__(self, url: str | None) -> None:
        self._redis = redis.Redis.from_url(url) if url else None

    def usage(self) -> tuple[float, int]:
        """CPU seconds and commands that clients sent."""
        if self._redis is None:
            return 0.0, 0
        cpu, stats = self._redis.info("cpu"), self._redis.info("commandstats")
        # What scripts call is counted there too, under its own name.
        sent = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in _SENT)
        return cpu["used_cpu_user"] + cpu["used_cpu_sys"], sent


#: Sent by clients; scripts read without blocking, which is counted with them and small.
_SENT = ("evalsha", "eval", "set", "get", "smembers", "sadd")


async def _put(task: Any, n: int, keys: int) -> None:
    for i in range(0, n, 500):
        await asynctasq.dispatch_many([task(j % keys) for j in range(i, min(n, i + 500))])


async def _drain(server: Server, n: int) -> dict[str, float]:
    global _count, _last, _worker
    _count, _last = 0, n
    _worker = asynctasq.Worker(queues=["default"], concurrency=100)
    cpu, commands = server.usage()
    own, started = time.process_time(), time.perf_counter()
    await _worker.run()
    seconds, own = time.perf_counter() - started, time.process_time() - own
    cpu_after, commands_after = server.usage()
    return {
        "rate": n / seconds,
        "cpu_us": own / n * 1e6,
        "server_us": (cpu_after - cpu) / n * 1e6,
        "commands": (commands_after - commands) / n,
    }


async def _dispatch(task: Any, n: int) -> dict[str, float]:
    """Dispatches with a key each, so that every unique call is added."""
    calls = [task(i) for i in range(2 * n)]
    started = time.perf_counter()
    for call in calls[:n]:
        await call.dispatch()
    one = time.perf_counter() - started
    started = time.perf_counter()
    for i in range(n, 2 * n, 500):
        await asynctasq.dispatch_many(calls[i : min(2 * n, i + 500)])
    return {"one": n / one, "many": n / (time.perf_counter() - started)}


async def drains(server: Server, n: int) -> dict[str, dict[str, float]]:
    """Every task once."""
    found = {}
    for name, task in TASKS.items():
        await _put(task, n, n if task is unique else KEYS)
        found[name] = await _drain(server, n)
    return found


async def dispatches(server: Server, n: int) -> dict[str, dict[str, float]]:
    """Plain and unique; what is added is drained."""
    found = {}
    for name in ("without", "unique"):
        found[name] = await _dispatch(TASKS[name], n)
        await _drain(server, 2 * n)
    return found


async def lines(server: Server, n: int, largest: int) -> dict[str, dict[str, float]]:
    """Serial lines, few and short, then many: as many calls of each are drained."""
    found = {}
    for waiting in (n, largest):
        keys = FEW_KEYS if waiting == n else max(FEW_KEYS, largest // 10)
        await _put(serial, waiting, keys)
        name = f"{waiting:,} waiting over {keys:,} keys"
        found[name] = await _drain(server, n)
        if waiting > n:
            await _drain(server, waiting - n)
    return found


async def run(
    broker: str,
    url: str | None,
    path: Path,
    parts: Sequence[str],
    repeat: int,
    n: int,
    largest: int,
) -> None:
    """Measure and print."""
    options: dict[str, Any] = {
        "redis": {"redis": url},
        "postgres": {"postgres": url},
        "sqlite": {"sqlite": path / "queue.db"},
    }
    logging.getLogger("asynctasq").setLevel(logging.ERROR)
    asynctasq.init(driver=broker, **options.get(broker, {}))
    server = Server(url if broker == "redis" else None)
    measures = {
        "drains": lambda: drains(server, n),
        "dispatches": lambda: dispatches(server, n // 5),
        "lines": lambda: lines(server, n, largest),
    }
    runs: dict[str, dict[str, list[dict[str, float]]]] = {part: {} for part in parts}
    for i in range(repeat):
        for part in parts:
            for name, found in (await measures[part]()).items():
                runs[part].setdefault(name, []).append(found)
        print(f"{i + 1}/{repeat}", file=sys.stderr, flush=True)
    for part, part_runs in runs.items():
        print(report.table(PARTS[part], part_runs) + "\n")
    print(report.circumstances("asynctasq-core", "redis", "hiredis", broker=broker, tasks=n))


@contextmanager
def _server(broker: str) -> Iterator[str | None]:
    servers = {"redis": redis_server, "postgres": postgres_database}
    with servers.get(broker, nullcontext)() as url:
        yield url


def main() -> None:
    """Measure on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=BROKERS, default="redis")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--n", type=int, default=10_000, help="tasks that each step drains")
    parser.add_argument("--largest", type=int, default=1_000_000, help="most calls in lines")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    with _server(args.broker) as url, tempfile.TemporaryDirectory() as folder:
        sizes = (args.repeat, args.n, args.largest)
        uvloop.run(run(args.broker, url, Path(folder), args.part, *sizes))


if __name__ == "__main__":
    main()
