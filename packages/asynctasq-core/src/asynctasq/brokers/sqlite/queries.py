"""Reads from a queue file; each function runs inside one snapshot."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from sqlite3 import Connection
from typing import Any

from .. import DeadLetter, MessageState, QueueStats, WorkerInfo
from ..parking import PARKED_SECONDS, PAUSES
from . import clock
from .states import DEAD, DELAYED, LEASED, PAUSED, WAITS

NEVER = float("inf")

_NUMBER = "(SELECT number FROM queue WHERE name = ?)"
_COUNT = f"SELECT count(*) FROM message WHERE queue = {_NUMBER} AND state = ? AND at <= ?"
_IS_PAUSED = f"""(special & {PAUSED} AND EXISTS (SELECT 1 FROM value
    WHERE value.queue = queue.name AND kind = '{PAUSES}' AND value.name = ''))"""
_NEXT = f"""SELECT min(
    ifnull((SELECT at FROM message WHERE queue = number AND state = 0 ORDER BY at LIMIT 1), 9e999)
        - :lease_now,
    ifnull((SELECT at FROM message WHERE queue = number AND state = 1 ORDER BY at LIMIT 1), 9e999)
        - :now,
    ifnull((SELECT opens FROM rate WHERE queue = number AND opens IS NOT NULL
        ORDER BY opens LIMIT 1), 9e999) - :now,
    ifnull((SELECT 0 FROM message WHERE queue = number AND state = 2 LIMIT 1), 9e999))
    FROM queue WHERE name = :queue AND NOT {_IS_PAUSED}"""
_IS_BUSY = f"""SELECT 1 FROM queue WHERE name = :queue AND (
    EXISTS (SELECT 1 FROM message WHERE queue = number AND state = 0 AND at > :lease_now)
    OR NOT {_IS_PAUSED} AND (
        EXISTS (SELECT 1 FROM message WHERE queue = number AND state IN (0, 2, 4, 5, 6))
        OR EXISTS (SELECT 1 FROM message
            WHERE queue = number AND state = 1 AND at < {PARKED_SECONDS})))"""


def ready_in(db: Connection, queues: Iterable[str]) -> float:
    """Seconds until there is something to take: `NEVER` if never, 0 or less for now."""
    times = {"lease_now": clock.now(), "now": time.time()}
    earliest = NEVER
    for queue in queues:
        row = db.execute(_NEXT, {"queue": queue, **times}).fetchone()
        earliest = min(earliest, row[0]) if row else earliest
        if earliest <= 0:
            break
    return earliest


def is_idle(db: Connection, queues: Iterable[str]) -> bool:
    """Whether the queues hold nothing but dead letters and paused messages."""
    now = clock.now()
    return not any(
        db.execute(_IS_BUSY, {"queue": queue, "lease_now": now}).fetchone() for queue in queues
    )


def state(db: Connection, queue: str, message_id: str) -> MessageState | None:
    """The message's state."""
    row = db.execute(
        f"SELECT state, at FROM message WHERE queue = {_NUMBER} AND id = ?", (queue, message_id)
    ).fetchone()
    if row is None:
        return None
    code, at = row
    if code == DEAD:
        return "dead"
    if code in WAITS:
        return "waiting"
    if at <= (clock.now() if code == LEASED else time.time()):
        return "waiting"
    return "running" if code == LEASED else "delayed"


def result(db: Connection, queue: str, message_id: str) -> bytes | None:
    """A result, until it expires."""
    row = db.execute(
        "SELECT body FROM result WHERE queue = ? AND id = ? AND expires > ?",
        (queue, message_id, time.time()),
    ).fetchone()
    return row[0] if row else None


def stats(db: Connection) -> list[QueueStats]:
    """All queues that were ever named."""
    rows = db.execute("SELECT name FROM queue ORDER BY name").fetchall()
    names = [name for (name,) in rows if isinstance(name, str)]
    return [_stats(db, name) for name in names]


def _stats(db: Connection, queue: str) -> QueueStats:
    def count(code: int, until: float) -> int:
        found: int = db.execute(_COUNT, (queue, code, until)).fetchone()[0]
        return found

    returned, due = count(LEASED, clock.now()), count(DELAYED, time.time())
    return QueueStats(
        queue,
        waiting=sum(count(code, NEVER) for code in WAITS) + returned + due,
        running=count(LEASED, NEVER) - returned,
        delayed=count(DELAYED, NEVER) - due,
        dead=count(DEAD, NEVER),
    )


def workers(db: Connection) -> list[WorkerInfo]:
    """Workers with a recent sign of life, and how many messages each is running."""
    now = clock.now()
    running: dict[str, int] = dict(
        db.execute(
            """SELECT owner, count(*) FROM queue JOIN message ON queue = number
            WHERE state = 0 AND at > ? GROUP BY owner""",
            (now,),
        ).fetchall()
    )
    rows = db.execute(
        """SELECT id, host, pid, queues, concurrency, started_at, is_blocked FROM worker
        WHERE alive_until > ? ORDER BY started_at""",
        (now,),
    ).fetchall()
    return [info for row in rows if (info := _worker(row, running))]


def _worker(row: tuple[Any, ...], running: dict[str, int]) -> WorkerInfo | None:
    """The worker, or `None` if something else has written the row."""
    worker_id, host, pid, packed_queues, concurrency, started_at, is_blocked = row
    try:
        queues = tuple(json.loads(packed_queues))
    except (ValueError, TypeError, RecursionError):
        return None
    if not all(isinstance(text, str) for text in (worker_id, host, *queues)):
        return None
    if not all(isinstance(number, int | float) for number in (pid, concurrency, started_at)):
        return None
    held = running.get(worker_id, 0)
    return WorkerInfo(worker_id, host, pid, queues, concurrency, started_at, held, bool(is_blocked))


def dead_letters(db: Connection, queue: str, limit: int, offset: int) -> list[DeadLetter]:
    """A page of the dead letters, newest first."""
    rows = db.execute(
        f"""SELECT id, body, info, at FROM message WHERE queue = {_NUMBER} AND state = 3
        ORDER BY at DESC, place DESC LIMIT ? OFFSET ?""",
        (queue, limit, offset),
    )
    return [_letter(queue, row) for row in rows]


def find_dead(db: Connection, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
    """The dead letters among these ids."""
    found = []
    for message_id in dict.fromkeys(message_ids):
        row = db.execute(
            f"""SELECT id, body, info, at FROM message
            WHERE queue = {_NUMBER} AND id = ? AND state = 3""",
            (queue, message_id),
        ).fetchone()
        found += [_letter(queue, row)] if row else []
    return found


def _letter(queue: str, row: tuple[Any, ...]) -> DeadLetter:
    message_id, body, info, died_at = row
    body, info = (part if isinstance(part, bytes) else b"" for part in (body, info))
    return DeadLetter(queue, str(message_id), body, info, died_at)
