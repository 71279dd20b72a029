"""Pages of the messages that a queue holds; `{schema}` stands for the schema's quoted name.

Waiting messages are in three places, each read in an order that a message keeps while it stays
there: `pending`, lines, and messages leased to workers that have lapsed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asynctasq.brokers import HeldMessage, HeldPage, HeldState

Query = Callable[..., Awaitable[Sequence[Any]]]

_LEAST, _MOST = -(2**63), 2**63 - 1
#: The same as `parked_until` in `pauses.sql`.
_PARKED_SECONDS = 8e12
_LEAST_INT, _MOST_INT = -(2**31), 2**31 - 1

# Each lane is read from a place on, as an index range. Values compared with a column are computed
# beforehand: a clock read for each row would keep the index from being used.
_LANES = """
WITH lanes AS MATERIALIZED (
    SELECT -l.priority AS rank, kind, l.number * 8 + kind AS lane,
        CASE WHEN (-l.priority, kind) = ($3::integer, $4::integer)
            THEN $5::bigint ELSE $7::bigint END AS since,
        CASE WHEN (-l.priority, kind) = ($3::integer, $4::integer)
            THEN $6::bigint ELSE $7::bigint END AS since_message,
        CASE WHEN kind IN (1, 5) THEN {schema}.microseconds(clock_timestamp())
            ELSE 9223372036854775807 END AS until
    FROM {schema}.queue q JOIN {schema}.lane l ON l.queue = q.number
    CROSS JOIN generate_series(0, 5) AS kind
    WHERE q.name = $1 AND (-l.priority, kind) >= ($3::integer, $4::integer)
)
"""
_PENDING = (
    _LANES
    + """
SELECT m.id, m.body, p.deliveries, p.rank AS a, p.kind AS b, p.place AS c, p.message AS d
FROM (
    SELECT lanes.rank, lanes.kind, found.* FROM lanes CROSS JOIN LATERAL (
        SELECT * FROM {schema}.pending p
        WHERE p.lane = lanes.lane AND (p.line IS NULL OR lanes.kind >= 3)
            AND (p.place, p.message) > (lanes.since, lanes.since_message)
            AND p.place <= lanes.until
        ORDER BY p.lane, p.place, p.message LIMIT $2
    ) AS found
    ORDER BY rank, kind, place, message LIMIT $2
) AS p JOIN {schema}.message m ON m.number = p.message
ORDER BY a, b, c, d
"""
)
_DELAYED = """
WITH begin_ AS MATERIALIZED (
    SELECT greatest($3::bigint, {schema}.microseconds(clock_timestamp())) AS place
)
SELECT m.id, m.body, p.deliveries, p.place / 1e6 AS due, p.place AS a, p.message AS b
FROM (
    SELECT found.* FROM {schema}.queue q JOIN {schema}.lane l ON l.queue = q.number
    CROSS JOIN unnest('{1,5}'::integer[]) AS kind CROSS JOIN begin_
    CROSS JOIN LATERAL (
        SELECT * FROM {schema}.pending p
        WHERE p.lane = l.number * 8 + kind
            AND (p.place, p.message) > (begin_.place, $4::bigint)
        ORDER BY p.lane, p.place, p.message LIMIT $2
    ) AS found
    WHERE q.name = $1
    ORDER BY place, message LIMIT $2
) AS p JOIN {schema}.message m ON m.number = p.message
ORDER BY a, b
"""
_STANDING = """
SELECT m.id, m.body, p.deliveries, p.line AS a, p.rank AS b, p.place AS c, p.message AS d
FROM (
    SELECT found.* FROM {schema}.queue q JOIN {schema}.line l ON l.queue = q.number
    CROSS JOIN LATERAL (
        SELECT * FROM {schema}.standing s
        WHERE s.line = l.number
            AND (l.number > $3::integer
                OR (s.rank, s.place, s.message) > ($4::integer, $5::bigint, $6::bigint))
        ORDER BY s.line, s.rank, s.place, s.message LIMIT $2
    ) AS found
    WHERE q.name = $1 AND l.number >= $3::integer
    ORDER BY line, rank, place, message LIMIT $2
) AS p JOIN {schema}.message m ON m.number = p.message
ORDER BY a, b, c, d
"""
_LEASED = """
SELECT m.id, m.body, r.deliveries, w.id AS worker, r.worker AS a, r.message AS b
FROM {schema}.running r
JOIN {schema}.lane l ON l.number = r.lane / 8 JOIN {schema}.queue q ON q.number = l.queue
JOIN {schema}.message m ON m.number = r.message
LEFT JOIN {schema}.worker w ON w.number = r.worker
WHERE q.name = $1 AND (r.worker, r.message) > ($3::integer, $4::bigint)
    AND coalesce(w.alive_until > clock_timestamp(), false) = $5
ORDER BY a, b LIMIT $2
"""

#: The tables to read for each state, by a letter: the statement, where its first page begins, and
#: its further arguments.
_PARTS: dict[HeldState, dict[str, tuple[str, tuple[int, ...], tuple[Any, ...]]]] = {
    "waiting": {
        "p": (_PENDING, (_LEAST_INT, 0, _LEAST, _LEAST), (_LEAST,)),
        "s": (_STANDING, (_LEAST_INT, _LEAST_INT, _LEAST, _LEAST), ()),
        "l": (_LEASED, (_LEAST_INT, _LEAST), (False,)),
    },
    "delayed": {"d": (_DELAYED, (_LEAST, _LEAST), ())},
    "running": {"r": (_LEASED, (_LEAST_INT, _LEAST), (True,))},
}

FIND = """
SELECT m.id, m.body, coalesce(p.deliveries, s.deliveries, r.deliveries, 0) AS deliveries,
    CASE WHEN later THEN 'delayed' WHEN is_alive THEN 'running' ELSE 'waiting' END AS state,
    CASE WHEN later THEN p.place / 1e6 END AS due, CASE WHEN is_alive THEN w.id END AS worker
FROM {schema}.queue q JOIN {schema}.message m ON m.queue = q.number
LEFT JOIN {schema}.pending p ON p.message = m.number AND (p.line IS NULL OR p.lane % 8 >= 3)
LEFT JOIN {schema}.standing s ON s.message = m.number
LEFT JOIN ({schema}.running r JOIN {schema}.worker w ON w.number = r.worker)
    ON r.message = m.number,
LATERAL (SELECT
    p.lane % 8 IN (1, 5) AND p.place > {schema}.microseconds(clock_timestamp()) AS later,
    w.alive_until > clock_timestamp() AS is_alive) AS now_
WHERE q.name = $1 AND m.id = ANY ($2)
    AND NOT EXISTS (SELECT FROM {schema}.dead d WHERE d.message = m.number)
"""


async def held(
    query: Query, queue: str, state: HeldState, limit: int, after: str | None
) -> HeldPage:
    """A page of the messages in a state; see `Listing.held`."""
    parts = _PARTS[state]
    letters = list(parts)
    first, place = (letters[0], None) if after is None else _parsed(after, state)
    messages: list[HeldMessage] = []
    for letter in letters[letters.index(first) :]:
        sql, start, rest = parts[letter]
        wanted = limit - len(messages)
        rows = await query(sql, queue, wanted, *(place or start), *rest)
        messages += [shown(queue, state, row) for row in rows]
        if len(rows) == wanted:
            last = [str(rows[-1][name]) for name, _ in zip("abcd", start, strict=False)]
            return HeldPage(messages, " ".join((letter, *last)))
        place = None
    return HeldPage(messages)


def shown(queue: str, state: HeldState, row: Any) -> HeldMessage:
    """A row as a message."""
    due, worker = row.get("due"), row.get("worker")
    return HeldMessage(
        queue,
        row["id"],
        row["body"],
        state,
        row["deliveries"],
        due=float(due) if state == "delayed" and due < _PARKED_SECONDS else None,
        worker=worker if state == "running" else "",
    )


def _parsed(after: str, state: HeldState) -> tuple[str, tuple[int, ...]]:
    letter, *numbers = after.split(" ")
    start = _PARTS[state].get(letter, ("", (), ()))[1]
    if not start or len(numbers) != len(start):
        raise ValueError(f"{after[:50]!r} is not a place in a queue")
    place = tuple(int(number) for number in numbers)
    for number, least in zip(place, start, strict=True):
        most = _MOST if least == _LEAST else _MOST_INT
        if not -most - 1 <= number <= most:
            raise ValueError(f"{after[:50]!r} is not a place in a queue")
    return letter, place
