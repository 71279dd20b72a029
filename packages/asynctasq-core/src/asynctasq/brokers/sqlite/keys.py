"""The policy keys in use in a queue file; each function runs inside one snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any

from .. import KeyInUse
from . import clock


def keys_in_use(db: Connection, queue: str, limit: int) -> list[KeyInUse]:
    """The policy keys in use, longest lines first."""
    found = db.execute("SELECT number FROM queue WHERE name = ?", (queue,)).fetchone()
    if found is None:
        return []
    who = {"queue": found[0], "now": time.time(), "lease_now": clock.now(), "limit": limit}
    limits = db.execute(_LIMITS, who).fetchall()
    keys = [KeyInUse("limit", name, _holders(db, who, name), int(n)) for name, n in limits]
    keys += [KeyInUse("rate", name, (), waits, opens) for name, waits, opens in _rates(db, who)]
    keys += [KeyInUse("unique", *row) for row in _taken(db, who)]
    return sorted(keys, key=lambda key: (-key.waiting, key.kind, key.key))[:limit]


_WAIT = """(state IN (2, 4, 5, 6) OR state = 0 AND at <= :lease_now OR state = 1 AND at <= :now)"""
_LIMITS = f"""SELECT limited, total(waits) FROM
    (SELECT limited, {_WAIT} AS waits FROM message
    WHERE queue = :queue AND limited IS NOT NULL AND ({_WAIT} OR state = 0))
    GROUP BY limited ORDER BY 2 DESC LIMIT :limit"""
_RATES = f"""SELECT name, total(waits) FROM (
        SELECT rated AS name, {_WAIT} AS waits FROM message
        WHERE queue = :queue AND rated IS NOT NULL AND {_WAIT}
        UNION ALL SELECT name, 0 FROM rate WHERE queue = :queue AND tat > :now)
    GROUP BY name ORDER BY 2 DESC LIMIT :limit"""


def _holders(db: Connection, who: dict[str, Any], name: str) -> tuple[str, ...]:
    rows = db.execute(
        """SELECT id FROM message WHERE queue = :queue AND limited = :name AND state = 0
        AND at > :lease_now ORDER BY place""",
        {**who, "name": name},
    )
    return tuple(str(message_id) for (message_id,) in rows)


def _rates(db: Connection, who: dict[str, Any]) -> Iterable[tuple[str, int, float]]:
    for name, waits in db.execute(_RATES, who).fetchall():
        row = db.execute(
            """SELECT tat - (burst - 1) * interval FROM rate JOIN line ON line.queue = rate.queue
            AND rated = name WHERE rate.queue = :queue AND name = :name""",
            {**who, "name": name},
        ).fetchone()
        yield name, int(waits), max(who["now"], row[0] if row else 0.0)


def _taken(db: Connection, who: dict[str, Any]) -> Iterable[tuple[str, tuple[str]]]:
    rows = db.execute(
        """SELECT name, holder FROM taken WHERE queue = :queue
        AND (expires IS NULL OR expires > :now) LIMIT :limit""",
        who,
    )
    return [(name, (holder,)) for name, holder in rows]
