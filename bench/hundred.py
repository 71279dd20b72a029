"""One task with 100 model instances, against the query written by hand, on PostgreSQL.

hatch run bench:hundred [--repeat N] [--n TIMES] [ORM ...]

What the instances cost is the time from a call's dispatch to the start of its task, less that of
the same task without any; with the memory broker, whose own share is small.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import asynctasq

from bench import in_orms
from bench.in_orms import Place
from bench.orms import meter
from bench.report import Column

INSTANCES = 100

COLUMNS = [
    Column("task", "a task with 100 instances: what they cost it, ms", 2),
    Column("hand", "the query written by hand, ms", 2),
    Column("times", "times as much", 2),
    Column("queries", "queries of that task", 0),
]


async def measure(place: Place) -> dict[str, float]:
    """Medians, taken in turn."""
    orm, rows = place.orm, place.rows[:INSTANCES]
    asynctasq.init(driver="memory")
    worker = asynctasq.Worker(concurrency=1)
    working = asyncio.create_task(worker.run())
    keys = [row.id for row in rows]
    with_rows, without, hand = [], [], []
    before = orm.queries
    await _start_of(orm.many(rows))
    queries = orm.queries - before
    for _ in place.rows:
        with_rows.append(await _start_of(orm.many(rows)))
        without.append(await _start_of(orm.many([])))
        begun = time.perf_counter()
        await orm.fetch(keys)
        hand.append(time.perf_counter() - begun)
    worker.stop()
    await working
    task = statistics.median(with_rows) - statistics.median(without)
    by_hand = statistics.median(hand)
    found = {"task": task * 1000, "hand": by_hand * 1000, "times": task / by_hand}
    return found | {"queries": queries}


async def _start_of(call: asynctasq.Call[None]) -> float:
    """Seconds from when the broker has the call to the start of its task."""
    meter.expect(1)
    await call.dispatch()
    begun = time.perf_counter()
    await meter.done.wait()
    return meter.last - begun


def main() -> None:
    """Measure each ORM and print the table."""
    args = in_orms.parser(__doc__, n=200, repeat=5).parse_args()
    in_orms.compare(args, "bench.hundred", COLUMNS, measure)


if __name__ == "__main__":
    main()
