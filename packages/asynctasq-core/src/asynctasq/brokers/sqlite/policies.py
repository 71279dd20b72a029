"""Puts and takes messages with policies or priorities in a queue file.

Each function runs inside one write transaction. The rules for lines are in `schema.sql`; here it is
only decided whether the message that a take has reached may run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection

from .. import LimitKey, Outgoing, Policy, RateKey, UniqueKey
from . import clock
from .scripts import statements
from .states import BEHIND, DEAD, DELAYED, LEASED, LIMITED, POLICED, RATED, WAITING

_ARRIVALS = 1000

_SPECIAL = f"UPDATE queue SET special = special | {POLICED} WHERE number = ?"
_KNOWN = "SELECT state, at FROM message WHERE queue = ? AND id = ?"
_HOLDER = """SELECT holder FROM taken
    WHERE queue = ? AND name = ? AND (expires IS NULL OR expires > ?)"""
_TAKE_KEY = """INSERT INTO taken VALUES (:queue, :name, :holder, :until_started, :expires)
    ON CONFLICT DO UPDATE
    SET holder = :holder, until_started = :until_started, expires = :expires
    WHERE taken.expires <= :now"""
_PUT = """INSERT INTO message
    (place, queue, id, state, at, body, priority, line, limited, rated, uniq)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_LINE_IS = "queue = ? AND limited = ? AND most = ? AND rated = ? AND interval = ? AND burst = ?"
_ADD_LINE = """INSERT INTO line (queue, limited, most, rated, interval, burst)
    VALUES (?, ?, ?, ?, ?, ?)"""
_BEFORE = """SELECT 1 FROM message
    WHERE line = ? AND state IN (2, 5, 6) AND (at, place) < (?, ?) LIMIT 1"""
_DUE = """SELECT place, line, -priority, at FROM message
    WHERE queue = ? AND state = 1 AND at <= ? ORDER BY at, place LIMIT ?"""
_ARRIVE = "UPDATE message SET place = ?, state = ?, at = ? WHERE place = ?"
_RETURN = """UPDATE message SET state = 2, at = -priority, owner = NULL, lease = NULL
    WHERE place IN (SELECT place FROM message WHERE queue = ? AND state = 0 AND at <= ? LIMIT ?)"""
_OPENING = "SELECT name FROM rate WHERE queue = ? AND opens <= ?"
_OPENED = "UPDATE rate SET opens = NULL WHERE queue = ? AND opens <= ?"
_OPEN_RATED = """UPDATE message SET state = 2 WHERE place = (SELECT place FROM message
    WHERE queue = ? AND rated = ? AND state = 6 ORDER BY at, place LIMIT 1)"""
_OPEN_LIMITED = """UPDATE message SET state = 2 WHERE place = (SELECT place FROM message
    WHERE queue = ? AND limited = ? AND state = 5 ORDER BY at, place LIMIT 1)"""
_PARK = "UPDATE message SET state = ? WHERE place = ?"
_OPENS = """UPDATE rate SET opens = min(ifnull(opens, :opens), :opens)
    WHERE queue = :queue AND name = :name"""
_RUNNING = """SELECT count(*) FROM message
    WHERE queue = ? AND limited = ? AND state = 0 AND at > ?"""
_TAT = "SELECT tat FROM rate WHERE queue = ? AND name = ?"
_COUNT = """INSERT INTO rate VALUES (:queue, :name, :tat, NULL)
    ON CONFLICT DO UPDATE SET tat = :tat"""
_FORGET_RATES = """DELETE FROM rate WHERE rowid IN
    (SELECT rowid FROM rate WHERE opens IS NULL AND tat <= ? ORDER BY tat LIMIT 10)"""
_FORGET_KEYS = """DELETE FROM taken WHERE rowid IN
    (SELECT rowid FROM taken WHERE expires <= ? ORDER BY expires LIMIT 10)"""
_READY = """SELECT place, id, body, deliveries, line.number, counted, line.limited, most,
        line.rated, interval, burst
    FROM message LEFT JOIN line ON line.number = message.line
    WHERE message.queue = ? AND state = 2 ORDER BY at, place LIMIT ?"""


def is_special(message: Outgoing) -> bool:
    """Whether the message has a policy or priority, so that its place alone does not order it."""
    return message.policy is not None or message.priority != 0


def begin(db: Connection, queue: int) -> None:
    """Prepare a queue for its first special message."""
    db.execute(_SPECIAL, (queue,))
    for statement in statements("policies.sql"):
        db.execute(statement)


def put(
    db: Connection, queue: int, messages: Sequence[Outgoing], places: Iterator[int], now: float
) -> dict[str, str]:
    """Add messages, some of them special, to a queue; return conflicts as `Sending.put` does."""
    if any(m.policy and (m.policy.limit or m.policy.rate) for m in messages):
        _arrive(db, queue, places, now)  # messages that are already due come first in their line
    conflicts = {}
    for message in messages:
        known = db.execute(_KNOWN, (queue, message.id)).fetchone()
        holder = _holder(db, queue, message, known, now)
        if holder is not None:
            conflicts[message.id] = holder
        elif known is None or _replaces(message):
            _add(db, queue, message, next(places), now)
    return conflicts


def _replaces(message: Outgoing) -> bool:
    policy = message.policy
    return policy is not None and policy.unique is not None and policy.unique.replaces


def _holder(
    db: Connection, queue: int, message: Outgoing, known: tuple[int, float] | None, now: float
) -> str | None:
    """The id of the message that blocks this one; if none does, take its key.

    A message that this one replaces is deleted.
    """
    key = message.policy.unique if message.policy else None
    if key is None or (known is not None and not key.replaces):
        return None
    if known is None and _take_key(db, queue, message.id, key, now):
        return None
    found = db.execute(_HOLDER, (queue, key.key, now)).fetchone()
    holder: str | None = found[0] if found else None
    if known is None:
        return holder
    if holder == message.id and _can_be_replaced(*known):
        db.execute("DELETE FROM message WHERE queue = ? AND id = ?", (queue, message.id))
        _take_key(db, queue, message.id, key, now)
        return None
    return holder or message.id


def _add(db: Connection, queue: int, message: Outgoing, place: int, now: float) -> None:
    policy = message.policy or Policy()
    line = _line(db, queue, policy)
    at = float(-message.priority)
    state = WAITING if line is None else _stand(db, line, at, place)
    if message.due is not None:
        state, at = DELAYED, message.due
    limited, rated = policy.limit and policy.limit.key, policy.rate and policy.rate.key
    unique = policy.unique and policy.unique.key
    row = (place, queue, message.id, state, at, message.body, message.priority)
    db.execute(_PUT, (*row, line, limited, rated, unique))
    if rated is not None:
        db.execute(_FORGET_RATES, (now,))


def _can_be_replaced(state: int, at: float) -> bool:
    return state not in (LEASED, DEAD) or (state == LEASED and at <= clock.now())


def _take_key(db: Connection, queue: int, message_id: str, key: UniqueKey, now: float) -> bool:
    """Give a message its key; return whether the key was free."""
    expires = None if key.lasts_seconds is None else now + key.lasts_seconds
    started = key.until == "started"
    taken = db.execute(_TAKE_KEY, {
        "queue": queue, "name": key.key, "holder": message_id, "until_started": started,
        "expires": expires, "now": now,
    }).rowcount  # fmt: skip
    if expires is not None:
        db.execute(_FORGET_KEYS, (now,))
    return taken == 1


def _line(db: Connection, queue: int, policy: Policy) -> int | None:
    """The number of the line for the policy's limit and rate; `None` if it has neither."""
    limit, rate = policy.limit or _NO_LIMIT, policy.rate or _NO_RATE
    if not (policy.limit or policy.rate):
        return None
    keys = (queue, limit.key, limit.most, rate.key, rate.interval_seconds, rate.burst)
    found = db.execute(f"SELECT number FROM line WHERE {_LINE_IS}", keys).fetchone()
    number: int | None = found[0] if found else db.execute(_ADD_LINE, keys).lastrowid
    return number


_NO_LIMIT = LimitKey("", 0)
_NO_RATE = RateKey("", 0.0, 0)


def _stand(db: Connection, line: int, at: float, place: int) -> int:
    """The state of a message that joins a line: waiting, unless another comes before it."""
    return BEHIND if db.execute(_BEFORE, (line, at, place)).fetchone() else WAITING


def _arrive(db: Connection, queue: int, places: Iterator[int], now: float) -> None:
    """Move what time has made ready to waiting: due messages, expired leases, opening rates."""
    for place, line, at, due in db.execute(_DUE, (queue, now, _ARRIVALS)).fetchall():
        if line is None:
            db.execute(_ARRIVE, (place, WAITING, at, place))
        else:  # a message that was parked by a pause keeps its place
            arrival = place if due < 0 else next(places)
            db.execute(_ARRIVE, (arrival, _stand(db, line, at, arrival), at, place))
    db.execute(_RETURN, (queue, clock.now(), _ARRIVALS))
    opening = db.execute(_OPENING, (queue, now)).fetchall()
    if opening:
        db.execute(_OPENED, (queue, now))
        db.executemany(_OPEN_RATED, ((queue, name) for (name,) in opening))


def ready(
    db: Connection, queue: int, places: Iterator[int], now: float, room: int
) -> Iterator[tuple[int, str, bytes, int]]:
    """Up to `room` rows of messages that may run; lease each before asking for the next."""
    _arrive(db, queue, places, now)
    judge = _Judge(db, queue, now)
    while room:
        rows = db.execute(_READY, (queue, room)).fetchall()
        for place, message_id, body, deliveries, line, counted, *numbers in rows:
            if line is None or judge.may_run(place, counted, *numbers):
                room -= 1
                yield place, message_id, body, deliveries
        if not rows:
            break
    judge.write()


@dataclass(slots=True)
class _Judge:
    """Judges the messages that one take reaches."""

    db: Connection
    queue: int
    now: float
    _running: dict[str, int] = field(default_factory=dict)
    _tats: dict[str, float] = field(default_factory=dict)
    _counted: dict[str, float] = field(default_factory=dict)

    def may_run(
        self,
        place: int,
        counted: int,
        limited: str,
        most: int,
        rated: str,
        interval: float,
        burst: int,
    ) -> bool:
        """Judge a message: count it and return `True` if it may run now, else park it."""
        if most and self._count(limited) >= most:
            self._park(LIMITED, place)
            if burst:
                self.db.execute(_OPEN_RATED, (self.queue, rated))
            return False
        if burst and not counted:
            opens = self._conforms(rated, interval, burst)
            if opens > self.now:
                self._park(RATED, place)
                self.write()
                self.db.execute(_OPENS, {"queue": self.queue, "name": rated, "opens": opens})
                if most:
                    self.db.execute(_OPEN_LIMITED, (self.queue, limited))
                return False
        if most:
            self._running[limited] += 1
        return True

    def _park(self, state: int, place: int) -> None:
        self.db.execute(_PARK, (state, place))

    def _count(self, limited: str) -> int:
        if limited not in self._running:
            row = self.db.execute(_RUNNING, (self.queue, limited, clock.now())).fetchone()
            self._running[limited] = row[0]
        return self._running[limited]

    def _conforms(self, rated: str, interval: float, burst: int) -> float:
        """When a message of the rate may be delivered; if that is not later, it is counted."""
        if rated not in self._tats:
            found = self.db.execute(_TAT, (self.queue, rated)).fetchone()
            self._tats[rated] = found[0] if found else 0.0
        tat = self._tats[rated]
        opens = tat - (burst - 1) * interval
        if opens <= self.now:
            self._tats[rated] = self._counted[rated] = max(self.now, tat) + interval
        return opens

    def write(self) -> None:
        """Write down what the rates have counted."""
        used = self._counted.items()
        rows = [{"queue": self.queue, "name": name, "tat": tat} for name, tat in used]
        self.db.executemany(_COUNT, rows)
        self._counted.clear()
