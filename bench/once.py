"""The outbox and atomic tasks, against the same written by hand in the same transactions.

hatch run bench:once [--repeat N] [--n TRANSACTIONS]

SQLAlchemy on PostgreSQL, with Redis. What is compared takes turns in one process: a commit that
dispatches, with one that inserts a row of a message's size into one table; and atomic tasks that
change their row, with a loop over a Redis stream of keys that opens a transaction for each, changes
the row, and inserts a row which says that it is done.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any

import asynctasq
from redis.asyncio import Redis

from bench import in_orms
from bench.in_orms import Place
from bench.orms import meter
from bench.report import Column

CONCURRENCY = 10
MANY, ROUNDS = 1000, 5
PAUSE_SECONDS = 0.5
"""Until what is done in the background is done."""
BODY_BYTES = 120

COLUMNS = [
    Column("hand 1", "one row inserted by hand, and the commit, ms", 2),
    Column("outbox 1", "one call dispatched, and the commit, ms", 2),
    Column("times 1", "times by hand", 2),
    Column("hand many", f"{MANY:,} rows inserted by hand at once, and the commit, ms", 1),
    Column("outbox many", f"a commit with {MANY:,} calls in the outbox, ms", 1),
    Column("times many", "times by hand", 2),
    Column("before", "`dispatch_many` before it, ms", 1),
    Column("statements", f"statements of a commit with {MANY:,} calls", 0),
    Column("hand tasks", "the loop written by hand, tasks/s", 0),
    Column("atomic", "atomic tasks, tasks/s", 0),
    Column("share", "share of it", 2),
    Column("hand task statements", "statements of the loop written by hand, for each task", 2),
    Column("task statements", "statements of an atomic task", 2),
]


def _message(number: int) -> tuple[str, bytes]:
    return f"{time.time_ns():016x}{number:016x}", os.urandom(BODY_BYTES)


async def measure(place: Place) -> dict[str, float]:
    """All measurements once."""
    asynctasq.init(driver="redis", redis=place.redis_url, outbox=True)
    n = len(place.rows)
    found = await _commits(place, n)
    hand, by_hand_statements = await _by_hand(place)
    atomic, statements = await _atomic(place)
    return {
        **found,
        **{"hand tasks": hand, "atomic": atomic, "share": atomic / hand},
        **{"hand task statements": by_hand_statements, "task statements": statements},
    }


# --- commits ----------------------------------------------------------------------------


async def _insert(place: Place, session: Any, users: Sequence[Any]) -> None:
    """One statement, without what SQLAlchemy would think of it."""
    n = len(users)
    places = ", ".join(f"(${i + 1}, ${i + 2})" for i in range(0, 2 * n, 2))
    values = tuple(value for i in range(n) for value in _message(i))
    sql = f"INSERT INTO {place.orm.Outgoing.__tablename__} (id, body) VALUES {places}"
    await (await session.connection()).exec_driver_sql(sql, values)


async def _dispatch(place: Place, session: Any, users: Sequence[Any]) -> None:
    await asynctasq.dispatch_many([place.orm.one(user=user) for user in users])


async def _commits(place: Place, n: int) -> dict[str, float]:
    ways = {"hand": _insert, "outbox": _dispatch}
    ones: dict[str, list[float]] = {"hand": [], "outbox": []}
    for i in range(n + 10):
        for name, way in ways.items():
            seconds = await _transaction(place, 1, way)
            if i >= 10:
                ones[name].append(sum(seconds))
    manies: dict[str, list[float]] = {"hand": [], "outbox": [], "before": []}
    for _ in range(ROUNDS):
        await asyncio.sleep(PAUSE_SECONDS)
        manies["hand"].append(sum(await _transaction(place, MANY, _insert)))
        before, commit = await _transaction(place, MANY, _dispatch)
        manies["outbox"].append(commit)
        manies["before"].append(before)
    many = {name: median(seconds) for name, seconds in manies.items()}
    await asyncio.sleep(PAUSE_SECONDS)
    queries = place.orm.queries
    await _transaction(place, MANY, _nothing)
    without = place.orm.queries - queries
    await _transaction(place, MANY, _dispatch)
    statements = place.orm.queries - queries - 2 * without
    one = {name: sorted(seconds)[n // 2] * 1000 for name, seconds in ones.items()}
    return {
        **{"hand 1": one["hand"], "outbox 1": one["outbox"]},
        **{"times 1": one["outbox"] / one["hand"], "statements": statements},
        **{"hand many": many["hand"] * 1000, "outbox many": many["outbox"] * 1000},
        **{"times many": many["outbox"] / many["hand"], "before": many["before"] * 1000},
    }


async def _nothing(place: Place, session: Any, users: Sequence[Any]) -> None: ...


async def _transaction(
    place: Place, n: int, way: Callable[[Place, Any, Sequence[Any]], Awaitable[None]]
) -> tuple[float, float]:
    """Seconds of what is done with the new rows, and of the commit."""
    async with place.orm.Base._asynctasq_session_factory() as session:
        users = [place.orm.User(email="a@example.com", name="A") for _ in range(n)]
        session.add_all(users)
        await session.flush()
        start = time.perf_counter()
        await way(place, session, users)
        done = time.perf_counter()
        await session.commit()
        return done - start, time.perf_counter() - done


# --- tasks ------------------------------------------------------------------------------


async def _atomic(place: Place) -> tuple[float, float]:
    """Tasks per second, and statements of each."""
    async with Redis.from_url(place.redis_url, protocol=3) as redis:
        await redis.flushall()
    await asynctasq.dispatch_many([place.orm.change(user=row) for row in place.rows])
    before = place.orm.queries
    meter.expect(len(place.rows))
    await asynctasq.Worker(concurrency=CONCURRENCY, burst=True).run()
    assert meter.done.is_set()
    n = len(place.rows)
    return (n - 1) / meter.seconds, (place.orm.queries - before) / n


async def _by_hand(place: Place) -> tuple[float, float]:
    """The same of the loop."""
    before, n = place.orm.queries, len(place.rows)
    async with Redis.from_url(place.redis_url, protocol=3) as redis:
        await redis.flushall()
        await redis.xgroup_create("keys", "g", mkstream=True)
        for row in place.rows:
            await redis.xadd("keys", {"key": row.id})
        meter.expect(n)
        while not meter.done.is_set():
            reply: Any = await redis.xreadgroup("g", "c", {"keys": ">"}, count=CONCURRENCY)
            entries: list[Any] = [entry for c in reply.values() for part in c for entry in part]
            async with asyncio.TaskGroup() as running:
                for entry, fields in entries:
                    running.create_task(_change(place, str(entry), int(fields[b"key"])))
            await redis.xack("keys", "g", *(entry for entry, _ in entries))
    return (n - 1) / meter.seconds, (place.orm.queries - before) / n


async def _change(place: Place, entry: str, key: int) -> None:
    meter.tick()
    async with place.orm.Base._asynctasq_session_factory() as session:
        user = await session.get_one(place.orm.User, key)
        user.name += "!"
        session.add(place.orm.Done(id=f"{time.time_ns():x}{entry}"))
        await session.commit()


def main() -> None:
    """Measure and print the table."""
    args = in_orms.parser(__doc__, n=1000, repeat=5, orms=["sqlalchemy"]).parse_args()
    in_orms.compare(args, "bench.once", COLUMNS, measure)


if __name__ == "__main__":
    main()
