"""The tables that core keeps in the application's databases, and every statement on them.

Owns their columns. Each adapter declares the same tables in its ORM's own way, so that migrations
see them; `creation` is for everyone else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import msgpack

from ..adapters.statements import Dialect, Parameter, Statement
from ..brokers import LimitKey, Outgoing, Policy, RateKey, UniqueKey

OUTBOX, DONE = "asynctasq_outbox", "asynctasq_done"

T = TypeVar("T")

#: Rows per statement: with six parameters each they stay below SQLite's limit of 32,766. Their
#: messages together stay below what servers accept: 16 MiB in MariaDB, where drivers may double
#: them.
ROWS_AT_ONCE = 1000
BYTES_AT_ONCE = 4 * 1024 * 1024

_COLUMNS = ("id", "queue", "body", "due", "priority", "policy")

_TYPES: dict[Dialect, dict[str, str]] = {
    "postgresql": {"bytes": "bytea", "float": "double precision", "int": "smallint"},
    "mysql": {"bytes": "longblob", "float": "double", "int": "smallint"},
    "sqlite": {"bytes": "blob", "float": "double", "int": "smallint"},
}


def creation(dialect: Dialect) -> list[Statement]:
    """Statements that create missing tables."""
    types = _TYPES[dialect]
    outbox = (
        f"id varchar(64) NOT NULL PRIMARY KEY, queue varchar(200) NOT NULL, "
        f"body {types['bytes']} NOT NULL, due {types['float']}, "
        f"priority {types['int']} NOT NULL, policy {types['bytes']}"
    )
    done = (
        f"id varchar(64) NOT NULL PRIMARY KEY, result {types['bytes']}, "
        f"done_at {types['float']} NOT NULL"
    )
    index = f"{DONE}_done_at"
    tables = {OUTBOX: outbox, DONE: done}
    if dialect == "mysql":  # its CREATE INDEX has no IF NOT EXISTS
        tables[DONE] += f", INDEX {index} (done_at)"
    statements = [f"CREATE TABLE IF NOT EXISTS {n} ({c})" for n, c in tables.items()]
    if dialect != "mysql":
        statements.append(f"CREATE INDEX IF NOT EXISTS {index} ON {DONE} (done_at)")
    return [Statement(sql) for sql in statements]


def presence(table: str) -> Statement:
    """A statement that fails if a table, or one of its columns, is missing."""
    columns = {OUTBOX: _COLUMNS, DONE: ("id", "result", "done_at")}[table]
    return Statement(f"SELECT {', '.join(columns)} FROM {table} WHERE id = ''")


def portions(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Split items into as few lists as possible, each small enough in rows and bytes to send.

    Args:
        size: Gives the size of an item in bytes.
    """
    portion: list[T] = []
    total = 0
    for item in items:
        total += size(item)
        if portion and (total > BYTES_AT_ONCE or len(portion) == ROWS_AT_ONCE):
            yield portion
            portion, total = [], size(item)
        portion.append(item)
    if portion:
        yield portion


# --- the outbox ---------------------------------------------------------------------------


def insertion(messages: Sequence[Outgoing]) -> Iterator[Statement]:
    """Statements that keep messages, as few as drivers and servers allow."""
    for rows in portions(messages, lambda m: len(m.body)):
        places: list[str] = []
        parameters: list[Parameter] = []
        for m in rows:
            if m.due is None and m.policy is None and not m.priority:
                # Nearly every row is like this, and parameters are most of a driver's work.
                places.append("(?, ?, ?, NULL, 0, NULL)")
                parameters += (m.id, m.queue, m.body)
            else:
                places.append("(?, ?, ?, ?, ?, ?)")
                parameters += (m.id, m.queue, m.body, m.due, m.priority, _packed(m.policy))
        columns = ", ".join(_COLUMNS)
        sql = f"INSERT INTO {OUTBOX} ({columns}) VALUES {', '.join(places)}"
        yield Statement(sql, parameters)


def selection(ids: Sequence[str], dialect: Dialect) -> Statement:
    """These messages, locked against other relays if the database can skip locked rows."""
    places = ", ".join("?" * len(ids))
    lock = "" if dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
    return Statement(
        f"SELECT {', '.join(_COLUMNS)} FROM {OUTBOX} WHERE id IN ({places}) ORDER BY id{lock}", ids
    )


def oldest(after: str) -> Statement:
    """Id and size in bytes of the first messages after an id, in order of their ids."""
    return Statement(
        f"SELECT id, length(body) FROM {OUTBOX} WHERE id > ? ORDER BY id LIMIT {ROWS_AT_ONCE}",
        (after,),
    )


def count_and_oldest() -> Statement:
    """The number of messages, and the id of the oldest, which begins with its time."""
    return Statement(f"SELECT count(*), min(id) FROM {OUTBOX}")


def dispatched_at(message_id: str) -> float:
    """Unix time of a message's dispatch, read from the start of its id."""
    try:
        return int(message_id[:12], 16) / 1000
    except ValueError:  # not one of our ids
        return 0.0


def holding(message_id: str) -> Statement:
    """Selects a row if the message is there."""
    return Statement(f"SELECT id FROM {OUTBOX} WHERE id = ?", (message_id,))


def deletion(ids: Sequence[str]) -> Statement:
    """Deletes messages that the broker has."""
    return Statement(f"DELETE FROM {OUTBOX} WHERE id IN ({', '.join('?' * len(ids))})", ids)


def message(row: Sequence[Any]) -> Outgoing:
    """The message in a row of `selection`."""
    message_id, queue, body, due, priority, policy = row
    return Outgoing(queue, message_id, bytes(body), due, priority, _unpacked(policy))


def _packed(policy: Policy | None) -> bytes | None:
    if policy is None:
        return None
    packed: bytes = msgpack.packb(asdict(policy))
    return packed


def _unpacked(packed: Any) -> Policy | None:
    if packed is None:
        return None
    parts = msgpack.unpackb(bytes(packed))
    kinds: dict[str, Any] = {"unique": UniqueKey, "limit": LimitKey, "rate": RateKey}
    return Policy(**{k: kinds[k](**v) for k, v in parts.items() if v is not None})


# --- what is done -------------------------------------------------------------------------


def done(message_id: str, now: float) -> Statement:
    """Marks a call as done; fails if another run was first."""
    return Statement(f"INSERT INTO {DONE} (id, done_at) VALUES (?, ?)", (message_id, now))


def with_result(message_id: str, result: bytes) -> Statement:
    """Keeps the result of a call that is done."""
    return Statement(f"UPDATE {DONE} SET result = ? WHERE id = ?", (result, message_id))


def done_result(message_id: str) -> Statement:
    """Selects a row with the result of a call, if it is done."""
    return Statement(f"SELECT result FROM {DONE} WHERE id = ?", (message_id,))


def done_before(moment: float) -> Statement:
    """Selects ids of the oldest calls that were done before a Unix time."""
    return Statement(
        f"SELECT id FROM {DONE} WHERE done_at < ? ORDER BY done_at LIMIT {ROWS_AT_ONCE}", (moment,)
    )


def forgetting(ids: Sequence[str]) -> Statement:
    """Forgets that calls are done."""
    return Statement(f"DELETE FROM {DONE} WHERE id IN ({', '.join('?' * len(ids))})", ids)
