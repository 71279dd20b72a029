"""What flows cost: links of a chain, many schedules that wait, large batches.

hatch run bench:flow [--broker NAME] [--repeat N] [--chains N] [--schedules N] [--calls N]

The worker runs in this process. A batch is measured at a tenth of its size, too: what grows faster
than its size shows between the two.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import asynctasq
import uvloop
from asynctasq import Batch, schedule, unschedule

from bench import report
from bench.policies import Server
from bench.servers import redis_server

CHAINS = [
    report.Column("link_ms", "p50 of a link, ms", 2, False),
    report.Column("slow_ms", "p95, ms", 2, False),
    report.Column("commands", "Redis commands per link", 2),
]
SCHEDULES = [
    report.Column("percent", "CPU while idle, % of a core", 2, False),
    report.Column("first_s", "to make them, s", 1, False),
]
BATCHES = [
    report.Column("rate", "calls/s", 0, True),
    report.Column("then_ms", "last call to `then`, ms", 1, False),
    report.Column("commands", "Redis commands per call", 2),
    report.Column("mib", "worker's peak, MiB", 0, False),
]

LINKS = 10

#: Time to settle in before an idle worker is measured.
_SETTLE_SECONDS = 12.0

_started: list[float] = []
_last = 0.0
_then: asyncio.Event


@asynctasq.task
async def link(number: int) -> int:
    _started.append(time.perf_counter())
    return number + 1


@asynctasq.task(result_ttl=60)
async def end(number: int) -> int:
    _started.append(time.perf_counter())
    return number


@asynctasq.task
async def member(number: int) -> int:
    global _last
    _last = time.perf_counter()
    return number


@asynctasq.task
async def after() -> None:
    _started.append(time.perf_counter())
    _then.set()


@asynctasq.task
async def after_with(numbers: list[int]) -> None:
    _started.append(time.perf_counter())
    _then.set()


@asynctasq.task
async def never() -> None: ...


@asynccontextmanager
async def working() -> AsyncIterator[None]:
    """A worker beside the code."""
    worker = asynctasq.Worker(queues=["default"], concurrency=100)
    running = asyncio.create_task(worker.run())
    yield
    worker.stop()
    await running


async def chains(server: Server, n: int) -> dict[str, float]:
    """Chains, one after the other; a link is the time between two starts."""
    gaps: list[float] = []
    async with working():
        _, before = server.usage()
        for _ in range(n):
            _started.clear()
            chain = link(0)
            for _ in range(LINKS - 2):
                chain = chain.then(link)
            await (await chain.then(end).dispatch()).result(60)
            gaps += [b - a for a, b in pairwise(_started)]
        _, commands = server.usage()
    gaps.sort()
    return {
        "link_ms": gaps[len(gaps) // 2] * 1000,
        "slow_ms": gaps[len(gaps) * 95 // 100] * 1000,
        "commands": (commands - before) / (n * LINKS),
    }


async def schedules(n: int, seconds: float) -> dict[str, float]:
    """The CPU of a worker with schedules, none of which is due."""
    began = time.perf_counter()
    names = [f"bench {i}" for i in range(n)]
    for name in names:
        await schedule(never(), name=name, cron="0 3 1 1 *")
    made = time.perf_counter() - began
    async with working():
        await asyncio.sleep(min(_SETTLE_SECONDS, seconds))
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu) / (time.perf_counter() - began)
    for name in names:
        await unschedule(name)
    return {"percent": share * 100, "first_s": made}


async def batch(server: Server, n: int, then: Any) -> dict[str, float]:
    """One batch, dispatched while nothing runs, and then run."""
    global _then
    _then = asyncio.Event()
    _started.clear()
    await Batch([member(i) for i in range(n)], then=then).dispatch()
    _, before = server.usage()
    began = time.perf_counter()
    async with working():
        await _then.wait()
    _, commands = server.usage()
    return {
        "rate": n / (_last - began),
        "then_ms": (_started[0] - _last) * 1000,
        "commands": (commands - before) / n,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def run(args: argparse.Namespace, url: str | None, path: Path) -> None:
    """Measure and print."""
    options: dict[str, Any] = {"redis": {"redis": url}, "sqlite": {"sqlite": path / "queue.db"}}
    logging.getLogger("asynctasq").setLevel(logging.ERROR)
    asynctasq.init(
        driver=args.broker, max_payload_bytes=64 * 1024**2, **options.get(args.broker, {})
    )
    server = Server(url)
    parts: list[tuple[list[report.Column], dict[str, list[dict[str, float]]]]] = [
        (CHAINS, {}),
        (SCHEDULES, {}),
        (BATCHES, {}),
    ]
    for i in range(args.repeat):
        found = [
            {f"a chain of {LINKS}": await chains(server, args.chains)},
            {f"{n:,} schedules": await schedules(n, args.seconds) for n in (0, args.schedules)},
            {},
        ]
        for n in (args.calls // 10, args.calls):
            found[2][f"{n:,} calls"] = await batch(server, n, after())
            found[2][f"{n:,} calls, collected"] = await batch(server, n, after_with)
        for (_, runs), part in zip(parts, found, strict=True):
            for name, numbers in part.items():
                runs.setdefault(name, []).append(numbers)
        print(f"{i + 1}/{args.repeat}", file=sys.stderr, flush=True)
    for columns, runs in parts:
        print(report.table(columns, runs) + "\n")
    print(report.circumstances("asynctasq-core", "redis", "hiredis", broker=args.broker))


@contextmanager
def _server(broker: str) -> Iterator[str | None]:
    if broker != "redis":
        yield None
        return
    with redis_server() as url:
        yield url


def main() -> None:
    """Measure on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=("redis", "sqlite", "memory"), default="redis")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to watch them")
    parser.add_argument("--calls", type=int, default=100_000, help="calls of the large batch")
    args = parser.parse_args()
    with _server(args.broker) as url, tempfile.TemporaryDirectory() as folder:
        uvloop.run(run(args, url, Path(folder)))


if __name__ == "__main__":
    main()
