"""What a second worker process adds for `def` tasks that compute, on Redis.

hatch run bench:processes [--repeat N] [--n TASKS]

Beside it the same work without any queue, in one and in two plain processes: no worker can gain
more than the machine has to give in that minute.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asynctasq
import redis

from bench import report, tally
from bench.running import PROJECT, worker
from bench.servers import redis_server

COLUMNS = [
    report.Column("one", "tasks/s with one process", 1),
    report.Column("two", "tasks/s with two", 1),
    report.Column("gain", "gain", 2),
]


@asynctasq.task
def compute(steps: int) -> None:
    """Count, then note that it is done."""
    _work(steps)
    tally.note()


def _work(steps: int) -> None:
    total = 0
    for i in range(steps):
        total += i * i


async def _dispatch(n: int, steps: int) -> None:
    await asynctasq.dispatch_many(compute(steps) for _ in range(n))


def _with_workers(processes: int, n: int, steps: int, url: str) -> float:
    """Tasks per second of so many worker processes."""
    redis.Redis.from_url(url).flushall()
    asyncio.run(_dispatch(n, steps))
    command = [sys.executable, "-m", "asynctasq", "worker", "bench.processes"]
    options = ["--processes", str(processes), "--concurrency", "2"]
    with tempfile.TemporaryDirectory(prefix="bench-tally-") as name:
        folder = Path(name)
        environment = {
            **os.environ,
            **{"BENCH_TALLY": name, "BENCH_PROCESSES": str(processes)},
            **{"ASYNCTASQ_DRIVER": "redis", "ASYNCTASQ_REDIS_URL": url},
            "PYTHONPATH": str(PROJECT),
        }
        with worker([*command, *options], environment) as process:
            process.wait_until(lambda: tally.read(folder).count >= n)
            return tally.read(folder).rate


def _without_queue(processes: int, n: int, steps: int) -> float:
    """The same in plain processes, counted from when all of them are ready."""
    code = (
        "import sys; from bench.processes import _work; print(flush=True); sys.stdin.readline();"
        f"[_work({steps}) for _ in range({n // processes})]"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdin=-1, stdout=-1, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    started = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        process.communicate()
    return n / (time.perf_counter() - started)


def run(url: str, repeat: int, n: int, steps: int) -> None:
    """Measure and print."""
    asynctasq.init(driver="redis", redis=url)
    runs: dict[str, list[dict[str, float]]] = {"asynctasq": [], "no queue": []}
    for i in range(repeat):
        one, two = (_with_workers(p, n, steps, url) for p in (1, 2))
        runs["asynctasq"].append({"one": one, "two": two, "gain": two / one})
        one, two = (_without_queue(p, n, steps) for p in (1, 2))
        runs["no queue"].append({"one": one, "two": two, "gain": two / one})
        print(f"{i + 1}/{repeat}", file=sys.stderr, flush=True)
    print(report.table(COLUMNS, runs))
    print("\n" + report.circumstances("asynctasq-core", tasks=n, steps=steps))


def main() -> None:
    """Measure on a server of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--n", type=int, default=200, help="tasks")
    parser.add_argument("--steps", type=int, default=200_000, help="work in each")
    args = parser.parse_args()
    with redis_server() as url:
        run(url, args.repeat, args.n, args.steps)


if __name__ == "__main__":
    main()
