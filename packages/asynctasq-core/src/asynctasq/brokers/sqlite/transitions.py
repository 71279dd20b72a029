"""Changes messages in a queue file; each function runs inside one write transaction.

`schema.sql` explains states and times. A delivery is identified by the row's place, the worker and
a lease number that the worker's consumer never uses twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from sqlite3 import Connection
from typing import Any, NamedTuple

from .. import Action, ConsumerOptions, Delivery, Outcome, Outgoing
from . import clock
from . import pauses as sqlite_pauses
from . import policies as sqlite_policies
from . import remembered_values as sqlite_remembered
from .states import DEAD, DELAYED, LEASED, PAUSED, POLICED, WAITING

CHUNK = 5000

PLACES = 40  # the bits of a place that hold its order in the queue

_NUMBER = "(SELECT number FROM queue WHERE name = ?)"
_DECLARE = "INSERT INTO queue (name) VALUES (?) ON CONFLICT DO NOTHING"
_LAST = "SELECT max(place) FROM message WHERE place >= ? AND place < ?"
_PUT = """INSERT INTO message (place, queue, id, state, at, body) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (queue, id) DO NOTHING"""
_QUEUE = "SELECT number, special FROM queue WHERE name = ?"
_READY = """SELECT place, id, body, deliveries FROM message
    WHERE queue = ? AND state = ? AND at <= ? ORDER BY at, place LIMIT ?"""
_LEASE = """UPDATE message
    SET state = 0, at = ?, deliveries = deliveries + 1, owner = ?, lease = ?, counted = 1
    WHERE place = ?"""
_MINE = "WHERE place = ? AND owner = ? AND lease = ?"
_DONE = f"DELETE FROM message {_MINE}"
_RENEW = f"UPDATE message SET at = ? {_MINE}"
_RELEASE = f"""UPDATE message
    SET at = 0, deliveries = deliveries - 1, owner = NULL, lease = NULL {_MINE}"""
_MOVE = f"""UPDATE message
    SET state = ?, at = ?, deliveries = ?, owner = NULL, lease = NULL,
        body = coalesce(?, body), info = ?, counted = 0 {_MINE}"""
_KEEP = "INSERT OR REPLACE INTO result (queue, id, body, expires) VALUES (?, ?, ?, ?)"
_FORGET = """DELETE FROM result WHERE serial IN
    (SELECT serial FROM result WHERE expires <= ? ORDER BY expires LIMIT ?)"""
_LEAD = """INSERT INTO lead VALUES (:name, :holder, :until)
    ON CONFLICT (name) DO UPDATE SET holder = :holder, until = :until
    WHERE holder = :holder OR until <= :now"""
_ANNOUNCE = "INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Tag(NamedTuple):
    """Locates one delivery.

    Attributes:
        is_special: Whether its queue has messages with priorities or policies.
        key: In a queue with pauses: the unique key that the delivery has freed.
    """

    place: int
    owner: str
    lease: int
    is_special: bool
    key: str | None = None


def put(db: Connection, messages: Sequence[Outgoing]) -> dict[str, str] | None:
    """Add the messages whose id is new and whose key is free; see `Sending.put`."""
    by_queue: dict[str, list[Outgoing]] = {}
    for message in messages:
        by_queue.setdefault(message.queue, []).append(message)
    declare(db, by_queue)
    conflicts: dict[str, str] = {}
    for queue, its in by_queue.items():
        number, special = db.execute(_QUEUE, (queue,)).fetchone()
        places = count(_next_place(db, number))
        if any(map(sqlite_policies.is_special, its)):
            if not special & POLICED:
                sqlite_policies.begin(db, number)
            conflicts |= sqlite_policies.put(db, number, its, places, time.time())
        else:
            rows = ((next(places), number, m.id, *_state_of(m), m.body) for m in its)
            db.executemany(_PUT, rows)
    return conflicts or None


def replace_value(
    db: Connection,
    queue: str,
    kind: str,
    name: str,
    value: bytes | None,
    expected: bytes | None,
    messages: Sequence[Outgoing],
) -> bool:
    """Keep a value and put messages if the one there is `expected`; returns whether it was."""
    if sqlite_remembered.get(db, queue, kind, name) != expected:
        return False
    sqlite_remembered.keep(db, queue, kind, name, value, None)
    put(db, messages)
    return True


def _next_place(db: Connection, number: int) -> int:
    first = number << PLACES
    [last] = db.execute(_LAST, (first, first + (1 << PLACES))).fetchone()
    return first if last is None else last + 1


def _state_of(message: Outgoing) -> tuple[int, float]:
    return (WAITING, 0.0) if message.due is None else (DELAYED, message.due)


def declare(db: Connection, queues: Iterable[str]) -> None:
    """Make the queues known."""
    for name in queues:
        db.execute(_DECLARE, (name,))


def take(db: Connection, options: ConsumerOptions, lease: int, limit: int) -> list[Delivery]:
    """Lease up to `limit` messages."""
    lease_now, now = clock.now(), time.time()
    end, owner = lease_now + options.lease_seconds, options.worker.id
    taken: list[Delivery] = []
    for queue in options.queues:
        if len(taken) == limit:
            break
        found = db.execute(_QUEUE, (queue,)).fetchone()
        if found is None:
            continue
        number, special = found
        pauses = sqlite_pauses.get_all(db, queue) if special & PAUSED else None
        if pauses and "" in pauses:
            continue
        is_policed = bool(special & POLICED)
        room = limit - len(taken)
        rows = (_special if is_policed else _plain)(db, number, lease_now, now, room)
        for row in rows:
            key = sqlite_pauses.key_of(db, row[0]) if pauses else None
            db.execute(_LEASE, (end, owner, lease, row[0]))
            tag = Tag(row[0], owner, lease, is_policed, key)
            taken.append(_delivery(queue, row, tag, pauses))
    return taken


def _plain(
    db: Connection, queue: int, lease_now: float, now: float, room: int
) -> Iterable[tuple[Any, ...]]:
    """Ready rows of a queue that uses neither priorities nor policies."""
    rows: list[tuple[Any, ...]] = []
    for state, until in ((LEASED, lease_now), (DELAYED, now), (WAITING, now)):
        if len(rows) < room:
            rows += db.execute(_READY, (queue, state, until, room - len(rows)))
    return rows


def _special(
    db: Connection, queue: int, lease_now: float, now: float, room: int
) -> Iterable[tuple[Any, ...]]:
    return sqlite_policies.ready(db, queue, count(_next_place(db, queue)), now, room)


def _delivery(
    queue: str, row: tuple[Any, ...], tag: Tag, pauses: Mapping[str, bytes] | None
) -> Delivery:
    _, message_id, body, deliveries = row
    # SQLite columns accept any type, and anything may have written to the file; a row with wrong
    # types becomes a dead letter.
    if type(body) is not bytes or type(message_id) is not str or type(deliveries) is not int:
        message_id, body, deliveries = str(message_id), b"", 0
    return Delivery(queue, message_id, body, deliveries + 1, tag, pauses)


def settle(db: Connection, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Apply the outcomes; return those whose lease was lost."""
    now = time.time()
    return [outcome for outcome in outcomes if not _apply(db, outcome, now)]


def _apply(db: Connection, outcome: Outcome, now: float) -> bool:
    tag = outcome.delivery.tag[:3]
    action, body = outcome.action, outcome.body
    if action is Action.DONE:
        done = db.execute(_DONE, tag)
    elif action in (Action.RETRY, Action.POSTPONE):
        deliveries = 0 if action is Action.RETRY else outcome.delivery.deliveries - 1
        done = db.execute(_MOVE, (DELAYED, now + outcome.delay, deliveries, body, None, *tag))
    elif action is Action.PARK and sqlite_pauses.park(db, outcome):
        return True
    elif action is Action.DEAD:
        deliveries = outcome.delivery.deliveries
        done = db.execute(_MOVE, (DEAD, now, deliveries, body, outcome.info, *tag))
    else:
        done = db.execute(_RELEASE, tag)
    if done.rowcount == 0:
        return False
    if outcome.result is not None and action in (Action.DONE, Action.DEAD):
        delivery = outcome.delivery
        keep(db, delivery.queue, delivery.id, outcome.result, outcome.result_ttl)
    return True


def keep(db: Connection, queue: str, message_id: str, result: bytes, ttl: float) -> None:
    """Keep a result, and forget up to ten expired ones, so that they never pile up."""
    now = time.time()
    db.execute(_KEEP, (queue, message_id, result, now + ttl))
    db.execute(_FORGET, (now, 10))


def renew(db: Connection, options: ConsumerOptions, held: Sequence[Delivery]) -> list[Delivery]:
    """Renew leases and the worker's sign of life; return the deliveries that were lost."""
    worker = options.worker
    until = clock.now() + options.lease_seconds
    names = json.dumps(worker.queues)
    shown = (worker.id, worker.host, worker.pid, names, worker.concurrency, worker.started_at)
    db.execute(_ANNOUNCE, (*shown, worker.is_blocked, until))
    return [d for d in held if db.execute(_RENEW, (until, *d.tag[:3])).rowcount == 0]


def withdraw(db: Connection, worker_id: str, queues: Iterable[str], *, undo: bool) -> int:
    """Forget the worker and release what it holds; with `undo`, do not count the deliveries."""
    now = clock.now()
    db.execute("DELETE FROM worker WHERE id = ? OR alive_until < ?", (worker_id, now - 86400))
    return sum(
        db.execute(
            f"""UPDATE message SET at = 0, deliveries = deliveries - ?, owner = NULL, lease = NULL
            WHERE queue = {_NUMBER} AND state = 0 AND owner = ?""",
            (int(undo), queue, worker_id),
        ).rowcount
        for queue in queues
    )


def lead(db: Connection, name: str, holder: str, ttl_seconds: float) -> bool:
    """Take or renew a named lease; return whether `holder` has it."""
    now = clock.now()
    wanted = {"name": name, "holder": holder, "until": now + ttl_seconds, "now": now}
    return db.execute(_LEAD, wanted).rowcount == 1


def resign(db: Connection, name: str, holder: str) -> None:
    """Give up a named lease if `holder` has it."""
    db.execute("DELETE FROM lead WHERE name = ? AND holder = ?", (name, holder))


def cancel(
    db: Connection, queue: str, message_id: str, result: bytes | None, result_ttl: float
) -> bool:
    """Delete a message that has not started and keep `result`; return whether it did so."""
    removed = db.execute(
        f"""DELETE FROM message WHERE queue = {_NUMBER} AND id = ?
        AND (state IN (1, 2, 4, 5, 6) OR state = 0 AND at <= ?)""",
        (queue, message_id, clock.now()),
    ).rowcount
    if removed and result is not None:
        keep(db, queue, message_id, result, result_ttl)
    return bool(removed)


def retry_dead(db: Connection, queue: str, bodies: Iterable[tuple[str, bytes]]) -> int:
    """Make dead letters wait again, or become due and join their line; return how many."""
    return sum(
        db.execute(
            f"""UPDATE message SET deliveries = 0, body = ?, info = NULL,
                state = iif(line IS NULL, 2, 1), at = iif(line IS NULL, -priority, 0)
            WHERE queue = {_NUMBER} AND id = ? AND state = 3""",
            (body, queue, message_id),
        ).rowcount
        for message_id, body in bodies
    )


def delete_dead(db: Connection, queue: str, message_ids: Iterable[str]) -> int:
    """Delete these dead letters; return how many were deleted."""
    return sum(
        db.execute(
            f"DELETE FROM message WHERE queue = {_NUMBER} AND id = ? AND state = 3",
            (queue, message_id),
        ).rowcount
        for message_id in message_ids
    )


def delete_some(db: Connection, queue: str, state: int, until: float) -> int:
    """Delete at most `CHUNK` messages in the state, up to the time `until`; return how many."""
    return db.execute(
        f"""DELETE FROM message WHERE place IN
        (SELECT place FROM message WHERE queue = {_NUMBER} AND state = ? AND at <= ? LIMIT ?)""",
        (queue, state, until, CHUNK),
    ).rowcount
