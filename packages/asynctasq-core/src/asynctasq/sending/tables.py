"""The tables that core keeps in databases of the application, and every statement on them.

Owns their form. Each adapter offers the same tables by its ORM's own means, so that migrations see
them; `creation` is for everyone else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import msgpack

from ..adapters.statements import Dialect, Parameter, Statement
from ..brokers import LimitKey, Outgoing, Policy, RateKey, UniqueKey

OUTBOX, DONE = "asynctasq_outbox", "asynctasq_done"

#: Rows that one statement inserts; six parameters each stay below SQLite's limit of 32,766.
ROWS_AT_ONCE = 1000

_COLUMNS = ("id", "queue", "body", "due", "priority", "policy")

_TYPES: dict[Dialect, dict[str, str]] = {
    "postgresql": {"bytes": "bytea", "float": "double precision", "int": "smallint"},
    "mysql": {"bytes": "longblob", "float": "double", "int": "smallint"},
    "sqlite": {"bytes": "blob", "float": "double precision", "int": "smallint"},
}


def creation(dialect: Dialect) -> list[Statement]:
    """What creates the tables that are missing."""
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
    return [
        Statement(f"CREATE TABLE IF NOT EXISTS {OUTBOX} ({outbox})"),
        Statement(f"CREATE TABLE IF NOT EXISTS {DONE} ({done})"),
        *([] if dialect == "mysql" else [_index("IF NOT EXISTS ")]),
    ]


def _index(condition: str = "") -> Statement:
    return Statement(f"CREATE INDEX {condition}{DONE}_done_at ON {DONE} (done_at)")


def presence() -> Iterator[Statement]:
    """What fails where a table is missing."""
    for name in (OUTBOX, DONE):
        yield Statement(f"SELECT count(*) FROM {name} WHERE id = ''")


# --- the outbox ---------------------------------------------------------------------------


def insertion(messages: Sequence[Outgoing]) -> Iterator[Statement]:
    """What keeps messages, in as few statements as drivers take parameters."""
    remaining = iter(messages)
    while rows := list(islice(remaining, ROWS_AT_ONCE)):
        places = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        parameters: list[Parameter] = []
        for m in rows:
            parameters += (m.id, m.queue, m.body, m.due, m.priority, _packed(m.policy))
        yield Statement(f"INSERT INTO {OUTBOX} ({', '.join(_COLUMNS)}) VALUES {places}", parameters)


def selection(ids: Sequence[str], dialect: Dialect) -> Statement:
    """These messages, locked against other relays where the database can pass over locked rows."""
    places = ", ".join("?" * len(ids))
    lock = "" if dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
    return Statement(
        f"SELECT {', '.join(_COLUMNS)} FROM {OUTBOX} WHERE id IN ({places}) ORDER BY id{lock}", ids
    )


def first_ids(limit: int) -> Statement:
    """The ids of the oldest messages."""
    return Statement(f"SELECT id FROM {OUTBOX} ORDER BY id LIMIT {limit:d}")


def count_and_oldest() -> Statement:
    """How many messages there are, and the id of the oldest, whose time it begins with."""
    return Statement(f"SELECT count(*), min(id) FROM {OUTBOX}")


def holding(message_id: str) -> Statement:
    """A row if the message is there."""
    return Statement(f"SELECT id FROM {OUTBOX} WHERE id = ?", (message_id,))


def deletion(ids: Sequence[str]) -> Statement:
    """What deletes messages that the broker has."""
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


def done(message_id: str, result: bytes | None, now: float) -> Statement:
    """What says that a call is done; fails where another run said it first."""
    return Statement(
        f"INSERT INTO {DONE} (id, result, done_at) VALUES (?, ?, ?)", (message_id, result, now)
    )


def done_result(message_id: str) -> Statement:
    """The result of a call, if it is done."""
    return Statement(f"SELECT result FROM {DONE} WHERE id = ?", (message_id,))


def forgetting(before: float) -> Statement:
    """What forgets calls that were done before a Unix time."""
    return Statement(f"DELETE FROM {DONE} WHERE done_at < ?", (before,))
