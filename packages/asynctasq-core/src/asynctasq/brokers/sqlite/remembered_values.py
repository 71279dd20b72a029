"""Small named values in a queue file; each function runs inside one transaction."""

from __future__ import annotations

import time
from sqlite3 import Connection

_KEEP = "INSERT OR REPLACE INTO value VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM value WHERE queue = ? AND kind = ? AND name = ?"
_FORGET = """DELETE FROM value WHERE rowid IN
    (SELECT rowid FROM value WHERE expires <= ? ORDER BY expires LIMIT 10)"""


def get_all(db: Connection, queue: str, kind: str) -> dict[str, bytes]:
    """All values of a kind, by name."""
    rows = db.execute(
        """SELECT name, value FROM value WHERE queue = ? AND kind = ?
        AND (expires IS NULL OR expires > ?)""",
        (queue, kind, time.time()),
    )
    return {str(name): value for name, value in rows if isinstance(value, bytes)}


def get(db: Connection, queue: str, kind: str, name: str) -> bytes | None:
    """One value, until it expires."""
    row = db.execute(
        """SELECT value FROM value WHERE queue = ? AND kind = ? AND name = ?
        AND (expires IS NULL OR expires > ?)""",
        (queue, kind, name, time.time()),
    ).fetchone()
    return row[0] if row and isinstance(row[0], bytes) else None


def keep(
    db: Connection,
    queue: str,
    kind: str,
    name: str,
    value: bytes | None,
    ttl_seconds: float | None,
) -> None:
    """Keep a value, or delete it; also forget a few expired ones."""
    now = time.time()
    if value is None:
        db.execute(_DELETE, (queue, kind, name))
    else:
        expires = None if ttl_seconds is None else now + ttl_seconds
        db.execute(_KEEP, (queue, kind, name, value, expires))
    db.execute(_FORGET, (now,))


def delete_some(db: Connection, queue: str, kind: str, most: int) -> int:
    """Delete up to `most` values of a kind; return how many."""
    deleted = db.execute(
        """DELETE FROM value WHERE rowid IN
        (SELECT rowid FROM value WHERE queue = ? AND kind = ? LIMIT ?)""",
        (queue, kind, most),
    )
    return deleted.rowcount
