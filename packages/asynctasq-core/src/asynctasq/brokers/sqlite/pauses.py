"""Pauses in a queue file, and messages parked by them; each function runs inside one transaction.

A pause is a value of the kind `pauses`. A bit in `queue.special` tells whether a queue has any, so
that takes from other queues need not look. A parked message is delayed until a time that never
comes.
"""

from __future__ import annotations

import time
from sqlite3 import Connection
from typing import Any

from .. import Outcome
from ..parking import PAUSES, parked_until
from . import remembered_values as sqlite_remembered
from .states import PAUSED

_NUMBER = "(SELECT number FROM queue WHERE name = ?)"
_EXISTS = f"SELECT 1 FROM value WHERE queue = ? AND kind = '{PAUSES}' AND name = ?"
_NOTE = f"""UPDATE queue SET special = iif(
        EXISTS (SELECT 1 FROM value WHERE queue = :name AND kind = '{PAUSES}'),
        special | {PAUSED}, special & ~{PAUSED})
    WHERE name = :name"""
_PARK = """UPDATE message SET state = 1, at = ?, deliveries = deliveries - 1, owner = NULL,
        lease = NULL, counted = 0
    WHERE place = ? AND owner = ? AND lease = ?"""
# Messages parked at the rate meanwhile are judged again.
_UNCOUNT = """UPDATE rate SET opens = iif(opens IS NULL, NULL, 0), tat = tat - interval
    FROM message JOIN line ON line.number = message.line
    WHERE place = ? AND owner = ? AND lease = ? AND counted
        AND rate.queue = message.queue AND rate.name = message.rated"""
_HOLDS = """SELECT name FROM message JOIN taken ON taken.queue = message.queue
        AND name = uniq AND holder = id AND until_started AND expires IS NULL
    WHERE place = ?"""
_HOLD_AGAIN = f"""INSERT INTO taken VALUES ({_NUMBER}, ?, ?, 1, NULL)
    ON CONFLICT DO UPDATE SET holder = excluded.holder, until_started = 1, expires = NULL
    WHERE expires <= ?"""
_WAKE = f"""UPDATE message SET at = -1 WHERE place IN
    (SELECT place FROM message WHERE queue = {_NUMBER} AND state = 1 AND at = ? LIMIT ?)"""


def get_all(db: Connection, queue: str) -> dict[str, bytes]:
    """The queue's pauses, by name."""
    return sqlite_remembered.get_all(db, queue, PAUSES)


def begin(db: Connection, queue: str, name: str, value: bytes) -> None:
    """Begin a pause; the queue must be known."""
    sqlite_remembered.keep(db, queue, PAUSES, name, value, None)
    db.execute(_NOTE, {"name": queue})


def end(db: Connection, queue: str, name: str, most: int) -> tuple[bool, int]:
    """End a pause and resume up to `most` messages; return whether it existed and how many."""
    there_was_one = db.execute(_EXISTS, (queue, name)).fetchone() is not None
    sqlite_remembered.keep(db, queue, PAUSES, name, None, None)
    db.execute(_NOTE, {"name": queue})
    moved = db.execute(_WAKE, (queue, parked_until(name), most)).rowcount if name else 0
    return there_was_one, moved


def key_of(db: Connection, place: int) -> str | None:
    """The unique key that the message's delivery is about to free."""
    row = db.execute(_HOLDS, (place,)).fetchone()
    return row[0] if row else None


def park(db: Connection, outcome: Outcome) -> bool:
    """Park a delivery and undo its effects; return `False` if its pause or lease is over."""
    queue, tag = outcome.delivery.queue, outcome.delivery.tag
    if db.execute(_EXISTS, (queue, outcome.pause)).fetchone() is None:
        return False
    mine: tuple[Any, ...] = tag[:3]
    if tag.is_special:
        db.execute(_UNCOUNT, mine)
    if db.execute(_PARK, (parked_until(outcome.pause), *mine)).rowcount == 0:
        return False
    if tag.key is not None:
        db.execute(_HOLD_AGAIN, (queue, tag.key, outcome.delivery.id, time.time()))
    return True
