"""Whether the cost of a task stays what it is as everything round it grows, on Redis.

hatch run bench:growth [--repeat N] [--n N] [--largest N]

Cost is CPU of worker process and server per no-op task, which other load on the machine disturbs
less than time. Each step drains the same number of tasks from queues in the state named.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import time
from collections.abc import Sequence

import asynctasq
import redis
import uvloop

from bench import report
from bench.servers import redis_server

COLUMNS = [
    report.Column("worker_us", "worker CPU per task, µs", 1),
    report.Column("redis_us", "Redis CPU per task, µs", 1),
    report.Column("commands", "Redis commands per task", 3),
]

_count = 0
_last = 0
_worker: asynctasq.Worker


@asynctasq.task
async def noop() -> None:
    global _count
    _count += 1
    if _count == _last:
        _worker.stop()


@asynctasq.task(max_attempts=1)
async def fails() -> None:
    raise ValueError("as it is meant to")


async def _put(n: int, queue: str = "default", **changes: float) -> None:
    for i in range(0, n, 5000):
        calls = [noop().on_queue(queue) for _ in range(min(5000, n - i))]
        if "delay" in changes:
            calls = [call.delay(changes["delay"]) for call in calls]
        await asynctasq.dispatch_many(calls)


async def _kill(n: int) -> None:
    """Fill the dead letters."""
    await asynctasq.dispatch_many([fails() for _ in range(n)])
    logging.disable()  # each failure is logged
    await asynctasq.Worker(concurrency=100, burst=True, queues=["default"]).run()
    logging.disable(logging.NOTSET)


async def _drain(n: int, queues: Sequence[str], concurrency: int) -> None:
    global _count, _last, _worker
    _count, _last = 0, n
    _worker = asynctasq.Worker(queues=queues, concurrency=concurrency)
    await _worker.run()


class Server:
    """CPU and commands of the server, from its own counters."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def usage(self) -> tuple[float, int]:
        cpu = self._redis.info("cpu")
        commands = self._redis.info("stats")["total_commands_processed"]
        return cpu["used_cpu_user"] + cpu["used_cpu_sys"], commands

    def memory(self) -> int:
        return int(self._redis.info("memory")["used_memory"])

    def flush(self) -> None:
        self._redis.flushall()


async def _step(
    server: Server, n: int, queues: Sequence[str] = ("default",), concurrency: int = 100
) -> dict[str, float]:
    cpu, commands = server.usage()
    own = time.process_time()
    await _drain(n, queues, concurrency)
    own = time.process_time() - own
    cpu_after, commands_after = server.usage()
    return {
        "worker_us": own / n * 1e6,
        "redis_us": (cpu_after - cpu) / n * 1e6,
        "commands": (commands_after - commands) / n,
    }


async def measure(server: Server, drained: int, largest: int) -> dict[str, dict[str, float]]:
    """Every step once; each starts from an empty server."""
    found: dict[str, dict[str, float]] = {}
    waiting = drained
    while waiting <= largest:
        server.flush()
        await _put(waiting)
        found[f"{waiting:,} waiting"] = await _step(server, drained)
        waiting *= 10
    for n in (1, 1000):
        server.flush()
        await _put(n, delay=3600)
        await _put(drained)
        found[f"{n:,} delayed"] = await _step(server, drained)
    for n in (1, 1000):
        server.flush()
        await _kill(n)
        await _put(drained)
        found[f"{n:,} dead"] = await _step(server, drained)
    for n in (1, 10, 50):
        server.flush()
        queues = [f"queue{i}" for i in range(n)]
        for queue in queues:
            await _put(drained // n, queue)
        found[f"{n} queues"] = await _step(server, drained // n * n, queues)
    for concurrency in (10, 100, 1000):
        server.flush()
        await _put(drained)
        step = await _step(server, drained, concurrency=concurrency)
        found[f"concurrency {concurrency:,}"] = step
    return found


async def memory(server: Server, batch: int, batches: int) -> str:
    """Redis memory per waiting task, and the worker's growth over as many tasks."""
    server.flush()
    await _put(1)
    before = server.memory()
    await _put(batch)
    waiting = (server.memory() - before) / batch
    server.flush()
    peaks = []
    for _ in range(batches):
        await _put(batch)
        await _drain(batch, ["default"], 100)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return (
        f"Redis holds {waiting:.0f} bytes per waiting task without arguments. The worker's peak "
        f"memory was {peaks[0]:.1f} MB after {batch:,} tasks and {peaks[-1]:.1f} MB after "
        f"{batches * batch:,}."
    )


async def run(url: str, repeat: int, drained: int, largest: int) -> None:
    """Measure and print."""
    asynctasq.init(driver="redis", redis=url)
    server = Server(url)
    runs: dict[str, list[dict[str, float]]] = {}
    for i in range(repeat):
        for step, found in (await measure(server, drained, largest)).items():
            runs.setdefault(step, []).append(found)
        print(f"{i + 1}/{repeat}", file=sys.stderr, flush=True)
    print(_lines(runs))
    print("\n" + await memory(server, largest // 10, 10))
    print("\n" + report.circumstances("asynctasq-core", "redis", "hiredis", tasks=drained))


def _lines(runs: dict[str, list[dict[str, float]]]) -> str:
    """A line per step, since there are many."""
    table = report.table(COLUMNS, runs).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    rows.pop(1)
    turned = [f"| {' | '.join(cells)} |" for cells in zip(*rows, strict=True)]
    return "\n".join([turned[0], "|---" + "|---:" * (len(rows) - 1) + "|", *turned[1:]])


def main() -> None:
    """Measure on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--n", type=int, default=10_000, help="tasks that each step drains")
    parser.add_argument("--largest", type=int, default=1_000_000, help="most tasks waiting")
    args = parser.parse_args()
    with redis_server() as url:
        uvloop.run(run(url, args.repeat, args.n, args.largest))


if __name__ == "__main__":
    main()
