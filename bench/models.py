"""Tasks with model instances, on PostgreSQL and Redis: tasks per second and queries.

hatch run bench:models [--repeat N] [--tasks N] [ORM ...]

Compares one task with 100 instances to the hand-written query for the same rows, in the same
process and the same minute. Each ORM runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from bench import report
from bench.servers import postgres_database, redis_server

CONCURRENCY = 100
INSTANCES = 100

COLUMNS = [
    report.Column("dispatch", "dispatch with one instance each, in bulk, tasks/s", 0),
    report.Column("drain", "drain with one instance each, tasks/s", 0),
    report.Column("queries", "queries per task", 3),
    report.Column("hundred_ms", "one task with 100 instances: fetching them, ms", 2),
    report.Column("by_hand_ms", "the hand-written query, ms", 2),
    report.Column("ratio", "ratio of the two", 2),
    report.Column("hundred_queries", "queries of that task", 0),
]


async def measure(orm: Any, rows: list[Any]) -> dict[str, float]:
    """All measurements once."""
    import asynctasq

    keys = [row.pk if hasattr(row, "pk") else row.id for row in rows]
    start = time.perf_counter()
    await asynctasq.dispatch_many([orm.one(user=row) for row in rows])
    dispatched = time.perf_counter() - start
    before = orm.queries
    worker = asynctasq.Worker(concurrency=CONCURRENCY, burst=True)
    drained = await _drain(worker, len(rows))
    queries = orm.queries - before
    fetched, hand, hundred_queries = await _one_task(orm, rows[:INSTANCES], keys[:INSTANCES])
    return {
        "dispatch": len(rows) / dispatched,
        "drain": len(rows) / drained,
        "queries": queries / len(rows),
        "hundred_ms": fetched * 1000,
        "by_hand_ms": hand * 1000,
        "ratio": fetched / hand,
        "hundred_queries": hundred_queries,
    }


async def _drain(worker: Any, n: int) -> float:
    """Seconds from the first outcome to the last one."""
    ends: list[float] = []
    finish = worker._finish

    def finished(*args: Any) -> None:
        ends.append(time.perf_counter())
        finish(*args)

    worker._finish = finished
    await worker.run()
    assert len(ends) == n
    return ends[-1] - ends[0]


async def _one_task(orm: Any, rows: list[Any], keys: list[Any]) -> tuple[float, float, int]:
    """Medians of 20: what fetching 100 rows costs core and adapter, and the hand-written query."""
    from asynctasq.adapters.fetching import fetch
    from asynctasq.app import current
    from asynctasq.brokers import Delivery
    from asynctasq.sending.preparing import prepare
    from asynctasq.worker.execution import wanted_by
    from asynctasq.worker.jobs import recognise

    app = current()
    outgoing = prepare(orm.many(rows), app.config, app.adapters).outgoing
    delivery = Delivery(outgoing.queue, outgoing.id, outgoing.body, 1, None)
    fetched, hand = [], []
    for _ in range(20):
        before = orm.queries
        start = time.perf_counter()
        wanted = wanted_by(recognise(delivery, app))
        (found,) = await fetch(app.adapters, [wanted])
        fetched.append(time.perf_counter() - start)
        assert found.error is None and len(found.rows) == len(rows)
        queries = orm.queries - before
        start = time.perf_counter()
        await orm.by_hand(keys)
        hand.append(time.perf_counter() - start)
    return statistics.median(fetched), statistics.median(hand), queries


async def run_orm(name: str, redis_url: str, postgres_url: str, tasks: int, repeat: int) -> None:
    """In a process of its own: print the measurements as JSON."""
    import asynctasq

    asynctasq.init(driver="redis", redis=redis_url)
    orm = importlib.import_module(f"bench.orms.{name}")
    rows = await orm.open_rows(postgres_url, tasks)
    runs = [await measure(orm, rows) for _ in range(repeat)]
    await orm.close()
    print(json.dumps(runs))


def main() -> None:
    """Measure each ORM and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("orms", nargs="*", default=["sqlalchemy", "django", "tortoise"])
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--inside", nargs=2, metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        import uvloop

        uvloop.run(run_orm(args.orms[0], *args.inside, args.tasks, args.repeat))
        return
    runs, versions = {}, ["asynctasq-core"]
    for name in args.orms:
        with redis_server() as redis_url, postgres_database("asynctasq_bench") as postgres_url:
            command = [sys.executable, "-m", "bench.models", name, "--tasks", str(args.tasks)]
            more = ["--repeat", str(args.repeat), "--inside", redis_url, postgres_url]
            done = subprocess.run([*command, *more], check=True, capture_output=True, text=True)
            runs[name] = json.loads(done.stdout.splitlines()[-1])
        versions += importlib.import_module(f"bench.orms.{name}").DISTRIBUTIONS
    print(report.table(COLUMNS, runs))
    print("\n" + report.circumstances(*versions, tasks=args.tasks, concurrency=CONCURRENCY))


if __name__ == "__main__":
    main()
