"""How long the result of a call takes, with and without a network in between.

hatch run bench:results [--repeat N] [--n N]

From just before the dispatch to the result; application and worker are both as far from Redis.
Beside it a PING over the same network: what one round trip takes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import asynctasq
from redis.asyncio import Redis

from bench import report
from bench.running import PROJECT, worker
from bench.servers import distant, redis_server

ONE_WAY_SECONDS = 0.001

COLUMNS = [
    report.Column("p50", "result of a call, p50, ms", 2),
    report.Column("p99", "p99, ms", 2),
    report.Column("ping", "PING, p50, ms", 2),
    report.Column("pings", "a result in PINGs", 2),
]


@asynctasq.task(result_ttl=60)
async def answer(number: int) -> int:
    return number


async def _timed(n: int, function: Callable[[int], Awaitable[object]]) -> list[float]:
    """Milliseconds of each call, sorted; the first, which connects, is left out."""
    await function(0)
    times = []
    for i in range(n):
        start = time.perf_counter()
        await function(i)
        times.append((time.perf_counter() - start) * 1000)
    return sorted(times)


async def _call(number: int) -> None:
    handle = await answer(number).dispatch()
    assert await handle.result(timeout=30) == number


async def measure(url: str, n: int) -> dict[str, float]:
    """Round trips to a worker that is there already."""
    asynctasq.init(driver="redis", redis=url)
    results = await _timed(n, _call)
    async with Redis.from_url(url) as client:
        pings = await _timed(n, lambda _: client.ping())
    p50, ping = statistics.median(results), statistics.median(pings)
    return {"p50": p50, "p99": results[int(n * 0.99) - 1], "ping": ping, "pings": p50 / ping}


def run(url: str, n: int) -> dict[str, float]:
    """A worker there, and the calls."""
    command = [sys.executable, "-m", "asynctasq", "worker", "bench.results"]
    settings = {"ASYNCTASQ_DRIVER": "redis", "ASYNCTASQ_REDIS_URL": url}
    path = {"PYTHONPATH": str(PROJECT)}
    with worker(command, os.environ | settings | path):
        return asyncio.run(measure(url, n))


def main() -> None:
    """Measure near the server and far from it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=500, help="calls")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    far = f"{ONE_WAY_SECONDS * 1000:g} ms each way"
    runs: dict[str, list[dict[str, float]]] = {"no network": [], far: []}
    with redis_server() as url, distant(url, ONE_WAY_SECONDS) as far_url:
        for _ in range(args.repeat):
            runs["no network"].append(run(url, args.n))
            runs[far].append(run(far_url, args.n))
    print(report.table(COLUMNS, runs))
    print("\n" + report.circumstances("asynctasq-core", calls=args.n))


if __name__ == "__main__":
    main()
