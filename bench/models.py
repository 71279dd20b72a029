"""Tasks with one model instance each, on PostgreSQL and Redis, against a loop written by hand.

hatch run bench:models [--repeat N] [--n ROWS] [ORM ...]

Beside both a peer whose tasks get their row themselves, if it is installed.
"""

from __future__ import annotations

import asynctasq

from bench import by_hand, getting, in_orms
from bench.in_orms import Place
from bench.orms import meter
from bench.report import Column

CONCURRENCY = 100
#: The peer gets one row in so many, which keep it busy for as long.
PEERS_SHARE = 10

COLUMNS = [
    Column("drain", "drain with one instance each, tasks/s", 0),
    Column("hand", "the loop written by hand, tasks/s", 0),
    Column("share", "share of it", 2),
    Column("peer", "taskiq, a `get` in each task, tasks/s", 0),
    Column("times", "times as many", 1),
    Column("queries", "queries per task", 3),
]


async def measure(place: Place) -> dict[str, float]:
    """All measurements once."""
    orm, rows = place.orm, place.rows
    asynctasq.init(driver="redis", redis=place.redis_url)
    keys = [row.id for row in rows]
    await asynctasq.dispatch_many([orm.one(user=row) for row in rows])
    before = orm.queries
    meter.expect(len(rows))
    await asynctasq.Worker(concurrency=CONCURRENCY, burst=True).run()
    assert meter.done.is_set()
    drain = (len(rows) - 1) / meter.seconds
    found = {"drain": drain, "queries": (orm.queries - before) / len(rows)}
    found["hand"] = await by_hand.drain(place.redis_url, orm, keys)
    found["share"] = drain / found["hand"]
    if getting.is_installed():
        some = keys[::PEERS_SHARE]
        urls = place.redis_url, place.postgres_url
        found["peer"] = await getting.drain(place.name, *urls, some)
        found["times"] = drain / found["peer"]
    return found


def main() -> None:
    """Measure each ORM and print the table."""
    args = in_orms.parser(__doc__, n=40_000, repeat=5).parse_args()
    in_orms.compare(args, "bench.models", COLUMNS, measure)


if __name__ == "__main__":
    main()
