"""A transaction that dispatches a thousand calls: what its commit costs, against doing it by hand.

hatch run bench:commits [--repeat N] [--n CALLS]

SQLAlchemy on PostgreSQL. Each call takes a row that its transaction has written, so it waits for
the commit. By hand: the calls are kept until the commit, then packed and sent by `dispatch_many`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import asynctasq
import redis

from bench import in_orms
from bench.in_orms import Place
from bench.report import Column

Calls = Sequence[asynctasq.Call[None]]

COLUMNS = [
    Column("nothing", "the commit, nothing dispatched, ms", 1),
    Column("hand", "the commit and `dispatch_many` by hand, ms", 1),
    Column("one", "the commit, dispatched one by one, ms", 1),
    Column("one/hand", "times by hand", 2),
    Column("many", "the commit, dispatched by `dispatch_many`, ms", 1),
    Column("many/hand", "times by hand", 2),
    Column("one before", "dispatching one by one before it, ms", 1),
    Column("many before", "`dispatch_many` before it, ms", 1),
]


async def _nothing(calls: Calls) -> None: ...


async def _one_by_one(calls: Calls) -> None:
    for call in calls:
        await call.dispatch()


async def _many(calls: Calls) -> None:
    await asynctasq.dispatch_many(calls)


async def measure(place: Place) -> dict[str, float]:
    """Each way once, in turn."""
    asynctasq.init(driver="redis", redis=place.redis_url)
    n = len(place.rows)
    await asynctasq.dispatch_many([place.orm.one(user=row) for row in place.rows])  # connects
    _, nothing = await _transaction(place, n, _nothing, _nothing)
    _, hand = await _transaction(place, n, _nothing, _many)
    one_before, one = await _transaction(place, n, _one_by_one, _nothing)
    many_before, many = await _transaction(place, n, _many, _nothing)
    return {
        **{"nothing": nothing, "hand": hand, "one": one, "many": many},
        **{"one/hand": one / hand, "many/hand": many / hand},
        **{"one before": one_before, "many before": many_before},
    }


async def _transaction(
    place: Place,
    n: int,
    before: Callable[[Calls], Awaitable[None]],
    after: Callable[[Calls], Awaitable[None]],
) -> tuple[float, float]:
    """Milliseconds of what is done before the commit, and of the commit with what follows it."""
    server = redis.Redis.from_url(place.redis_url)
    server.flushall()
    async with place.orm.Base._asynctasq_session_factory() as session:
        users = [place.orm.User(email="a@example.com", name="A") for _ in range(n)]
        session.add_all(users)
        await session.flush()
        calls = [place.orm.one(user=user) for user in users]
        start = time.perf_counter()
        await before(calls)
        dispatched = time.perf_counter()
        await session.commit()
        await after(calls)
        end = time.perf_counter()
    _check_sent(server, 0 if before is after else n)
    return (dispatched - start) * 1000, (end - dispatched) * 1000


def _check_sent(server: redis.Redis, n: int) -> None:
    """A commit that returned before its calls were sent would look cheap."""
    sent = sum(server.xlen(key) for key in server.scan_iter(_type="stream"))
    assert sent == n, f"{sent} of {n} calls sent when the commit returned"


def main() -> None:
    """Measure and print the table."""
    args = in_orms.parser(__doc__, n=1000, repeat=9, orms=["sqlalchemy"]).parse_args()
    in_orms.compare(args, "bench.commits", COLUMNS, measure)


if __name__ == "__main__":
    main()
