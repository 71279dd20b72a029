"""Lists the messages in a queue file, page by page; each function runs inside one snapshot."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from .. import HeldMessage, HeldPage, HeldState
from ..parking import PARKED_SECONDS
from . import clock
from .states import BEHIND, DEAD, DELAYED, LEASED, LIMITED, RATED, WAITING

_QUEUE = "SELECT number FROM queue WHERE name = ?"
_COLUMNS = """SELECT id, body, deliveries, at, owner, place FROM message
    WHERE queue = ? AND state = ?"""
# Comparing the pair (at, place) instead would scan all rows with the same time.
_PAGE = f"""{_COLUMNS} AND at = ? AND place > ?
    UNION ALL {_COLUMNS} AND at > ? AND at <= ? ORDER BY at, place LIMIT ?"""
# Order by place: a lease's time changes with each renewal.
_RUNNING = f"{_COLUMNS} AND at > ? AND place > ? ORDER BY +place LIMIT ?"
_FIND = """SELECT id, body, deliveries, at, owner, place, state FROM message
    WHERE queue = ? AND id = ?"""
_ALWAYS, _NEVER = float("-inf"), float("inf")
_PLACE = re.compile(r"([0-6]) (-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf)) (\d{1,18})", re.ASCII)


def held(db: Connection, queue: str, state: HeldState, limit: int, after: str | None) -> HeldPage:
    """A page of the messages in a state."""
    code, at, place = _parsed(after)
    found = db.execute(_QUEUE, (queue,)).fetchone()
    if found is None:
        return HeldPage([])
    if state == "running":
        rows = db.execute(_RUNNING, (*found, LEASED, clock.now(), place, limit)).fetchall()
        return _page(queue, state, rows, LEASED, len(rows) == limit)
    parts = _parts(state)
    start = next((i for i, part in enumerate(parts) if part[0] == code), 0)
    messages: list[HeldMessage] = []
    for code, since, until in parts[start:]:
        wanted = limit - len(messages)
        at, place = max((at, place), (since, 0))
        of_part = (*found, code)
        rows = db.execute(_PAGE, (*of_part, at, place, *of_part, at, until, wanted)).fetchall()
        page = _page(queue, state, rows, code, len(rows) == wanted)
        messages += page.messages
        if page.after is not None:
            return HeldPage(messages, page.after)
        at, place = _ALWAYS, 0
    return HeldPage(messages)


def _page(
    queue: str, state: HeldState, rows: list[tuple[Any, ...]], code: int, is_full: bool
) -> HeldPage:
    """A page of rows in one state of the file; if it is full, the next one starts after them."""
    messages = [_shown(queue, state, row) for row in rows]
    return HeldPage(messages, f"{code} {rows[-1][3]!r} {rows[-1][5]}" if is_full else None)


def find_held(db: Connection, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
    """The messages among these ids that are waiting, delayed or running."""
    number = db.execute(_QUEUE, (queue,)).fetchone()
    messages = []
    for message_id in dict.fromkeys(message_ids) if number else ():
        row = db.execute(_FIND, (*number, message_id)).fetchone()
        if row is not None and row[-1] != DEAD:
            messages.append(_shown(queue, _state(row[-1], row[3]), row))
    return messages


def _parts(state: HeldState) -> list[tuple[int, float, float]]:
    """The states in the file that make up this one, each with the time range that counts."""
    now = time.time()
    if state == "delayed":
        return [(DELAYED, now, _NEVER)]
    standing = [(code, _ALWAYS, _NEVER) for code in (WAITING, BEHIND, LIMITED, RATED)]
    return [(LEASED, _ALWAYS, clock.now()), (DELAYED, _ALWAYS, now), *standing]


def _state(code: int, at: float) -> HeldState:
    if code == LEASED:
        return "running" if at > clock.now() else "waiting"
    return "delayed" if code == DELAYED and at > time.time() else "waiting"


def _shown(queue: str, state: HeldState, row: tuple[Any, ...]) -> HeldMessage:
    message_id, body, deliveries, at, owner, *_ = row
    # SQLite columns accept any type, and anything may have written to the file.
    return HeldMessage(
        queue,
        str(message_id),
        body if isinstance(body, bytes) else b"",
        state,
        deliveries if isinstance(deliveries, int) else 0,
        due=at if state == "delayed" and at < PARKED_SECONDS else None,
        worker=str(owner or "") if state == "running" else "",
    )


def _parsed(after: str | None) -> tuple[int | None, float, int]:
    if after is None:
        return None, _ALWAYS, 0
    if (match := _PLACE.fullmatch(after)) is None:
        raise ValueError(f"{after[:50]!r} is not a place in a queue")
    code, at, place = match.groups()
    return int(code), float(at), int(place)
