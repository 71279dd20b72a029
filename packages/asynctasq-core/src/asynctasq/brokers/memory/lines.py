"""The lines of one queue: which messages with a limit or a rate may be taken.

Messages with the same pair of keys stand in one line. The first in line is OPEN: takes see it, and
only then is it judged. If its limit is full or its rate closed, it is parked at that limit or rate,
and the line costs nothing until a message of the limit ends or the rate opens again. That opens the
first parked message; once one has been judged, the next can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from .. import KeyInUse, RateKey
from .messages import Order, Stand, StoredMessage

_Heap = list[tuple[Order, StoredMessage]]
_Pair = tuple[str | None, str | None]


@dataclass(slots=True)
class _Line:
    """The line of one pair of keys; each waiting message is in `first` or in `behind`."""

    first: dict[str, StoredMessage] = field(default_factory=dict)
    behind: _Heap = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class _Limit:
    running: set[str] = field(default_factory=set)
    parked: _Heap = field(default_factory=list)


@dataclass(slots=True)
class _Rate:
    """The state of one rate.

    Attributes:
        key: The `RateKey` that was judged last.
        tat: As in `RateKey`.
        opening: When the first parked message is opened.
    """

    key: RateKey
    tat: float = 0.0
    parked: _Heap = field(default_factory=list)
    opening: float = float("inf")

    def opens_at(self, key: RateKey) -> float:
        """When a message with this key conforms; in the past if it already does."""
        self.key = key
        return self.tat - (key.burst - 1) * key.interval_seconds

    def count(self, key: RateKey, now: float) -> None:
        """Note a delivery."""
        self.tat = max(now, self.tat) + key.interval_seconds


class Lines:
    """The lines, limits and rates of one queue.

    Args:
        offer: Makes an OPEN message visible to takes.
    """

    def __init__(self, offer: Callable[[StoredMessage], None]) -> None:
        self._offer = offer
        self._lines: dict[_Pair, _Line] = {}
        self._limits: dict[str, _Limit] = {}
        self._rates: dict[str, _Rate] = {}
        self._opening: list[tuple[float, str]] = []
        self._full: list[tuple[float, str]] = []  # when a rate will allow a whole burst again

    # --- messages come and go -----------------------------------------------------------

    def enter(self, message: StoredMessage) -> None:
        """Add a message that now waits; its order is already set."""
        line = self._lines.setdefault(_pair(message), _Line())
        line.size += 1
        if any(first.order < message.order for first in line.first.values()):
            message.stand = Stand.BEHIND
            heappush(line.behind, (message.order, message))
        else:
            self._open(line, message)

    def leave(self, message: StoredMessage) -> None:
        """Remove a message that was taken or deleted."""
        pair = _pair(message)
        line = self._lines[pair]
        line.size -= 1
        if line.first.pop(message.id, None) is not None:
            self._follow(line)
            if message.stand is Stand.OPEN:
                self._open_parked(message)
        if not line.size:
            del self._lines[pair]

    def _follow(self, line: _Line) -> None:
        """Open the next in line, unless one that is open already comes before it."""
        following = _pop(line.behind, Stand.BEHIND)
        if following is None:
            return
        if any(first.order < following.order for first in line.first.values()):
            heappush(line.behind, (following.order, following))
        else:
            self._open(line, following)

    def begin(self, message: StoredMessage) -> None:
        """Note that a message has started to run."""
        if message.policy and message.policy.limit:
            self._limit(message.policy.limit.key).running.add(message.id)

    def end(self, message: StoredMessage) -> None:
        """Note that a message has stopped running."""
        if message.policy and message.policy.limit:
            limit = self._limit(message.policy.limit.key)
            limit.running.discard(message.id)
            self._open_first(limit.parked, Stand.LIMITED)
            if not limit.running and not limit.parked:
                del self._limits[message.policy.limit.key]

    # --- judging ------------------------------------------------------------------------

    def may_run(self, message: StoredMessage, now: float) -> bool:
        """Judge an OPEN message: count it and return `True` if it may run now, else park it."""
        assert message.policy is not None
        limit, rate = message.policy.limit, message.policy.rate
        if limit is not None:
            used = self._limit(limit.key)
            if len(used.running) >= limit.most:
                self._park(message, Stand.LIMITED, used.parked)
                if rate is not None and rate.key in self._rates:
                    self._open_first(self._rates[rate.key].parked, Stand.RATED)
                return False
        if rate is not None and not message.counted:
            if not self._conforms(message, rate, now):
                if limit is not None:
                    self._open_first(self._limit(limit.key).parked, Stand.LIMITED)
                return False
            self._rates[rate.key].count(rate, now)
            heappush(self._full, (self._rates[rate.key].tat, rate.key))
            message.counted = True
        return True

    def _conforms(self, message: StoredMessage, key: RateKey, now: float) -> bool:
        rate = self._rates.setdefault(key.key, _Rate(key))
        opens = rate.opens_at(key)
        if opens <= now:
            return True
        self._park(message, Stand.RATED, rate.parked)
        if opens < rate.opening:
            rate.opening = opens
            heappush(self._opening, (opens, key.key))
        return False

    def _park(self, message: StoredMessage, stand: Stand, parked: _Heap) -> None:
        message.stand = stand
        heappush(parked, (message.order, message))

    def uncount(self, message: StoredMessage) -> None:
        """Undo the counting of a delivery, so that the rate lets the next one pass earlier."""
        assert message.policy is not None
        key = message.policy.rate
        if key is not None and message.counted and key.key in self._rates:
            rate = self._rates[key.key]
            rate.tat -= key.interval_seconds
            self._open_first(rate.parked, Stand.RATED)
        message.counted = False

    # --- opening ------------------------------------------------------------------------

    def open_rates(self, now: float) -> None:
        """Open the first message parked at each rate whose time has come; forget idle rates."""
        while self._opening and self._opening[0][0] <= now:
            opens, key = heappop(self._opening)
            rate = self._rates.get(key)
            if rate is not None and rate.opening == opens:
                rate.opening = float("inf")
                self._open_first(rate.parked, Stand.RATED)
        while self._full and self._full[0][0] <= now:
            key = heappop(self._full)[1]
            rate = self._rates.get(key)
            if rate is not None and rate.tat <= now and not rate.parked:
                del self._rates[key]

    def next_opening(self) -> float:
        """When the next rate opens; infinite if none will."""
        return self._opening[0][0] if self._opening else float("inf")

    def _open_parked(self, message: StoredMessage) -> None:
        """Let the next one be judged, since this OPEN message was taken or deleted."""
        assert message.policy is not None
        limit, rate = message.policy.limit, message.policy.rate
        if limit is not None and limit.key in self._limits:
            self._open_first(self._limits[limit.key].parked, Stand.LIMITED)
        if rate is not None and rate.key in self._rates:
            self._open_first(self._rates[rate.key].parked, Stand.RATED)

    def _open_first(self, parked: _Heap, stand: Stand) -> None:
        if message := _pop(parked, stand):
            self._open(self._lines[_pair(message)], message)

    def _open(self, line: _Line, message: StoredMessage) -> None:
        line.first[message.id] = message
        message.stand = Stand.OPEN
        self._offer(message)

    # --- looking ------------------------------------------------------------------------

    def in_use(self, now: float) -> list[KeyInUse]:
        """The limits and rates that have messages."""
        waiting: dict[tuple[int, str], int] = {}
        for pair, line in self._lines.items():
            for side, key in enumerate(pair):
                if key is not None:
                    waiting[side, key] = waiting.get((side, key), 0) + line.size
        limits = {key for side, key in waiting if side == 0} | {
            key for key, limit in self._limits.items() if limit.running
        }
        rates = {key for side, key in waiting if side == 1} | {
            key for key, rate in self._rates.items() if rate.tat > now
        }
        return [
            KeyInUse("limit", key, tuple(sorted(self._running(key))), waiting.get((0, key), 0))
            for key in limits
        ] + [
            KeyInUse("rate", key, (), waiting.get((1, key), 0), self._free_at(key, now))
            for key in rates
        ]

    def _running(self, key: str) -> set[str]:
        return self._limits[key].running if key in self._limits else set()

    def _free_at(self, key: str, now: float) -> float:
        rate = self._rates.get(key)
        return now if rate is None else max(now, rate.opens_at(rate.key))

    def _limit(self, key: str) -> _Limit:
        return self._limits.setdefault(key, _Limit())


def _pair(message: StoredMessage) -> _Pair:
    assert message.policy is not None
    limit, rate = message.policy.limit, message.policy.rate
    return (limit.key if limit else None, rate.key if rate else None)


def _pop(heap: _Heap, stand: Stand) -> StoredMessage | None:
    """The first message in the heap whose entry is still valid."""
    while heap:
        order, message = heappop(heap)
        if message.state == "waiting" and message.stand is stand and message.order == order:
            return message
    return None
