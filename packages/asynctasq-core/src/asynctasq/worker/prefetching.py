"""Takes messages before there is a slot for them, so that short tasks share round trips.

With few slots and tasks shorter than a round trip, a worker would mostly wait for the broker. Owns
the rule that prefetching delays no one: it takes only as many messages as will soon have a slot,
judging by how fast slots become free, and gives back those that find none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic

from ..brokers import Delivery

#: Maximum slots and prefetched messages together; with more, a round trip per message is cheap.
ENOUGH = 100

#: A prefetched message should have its slot within this time.
AHEAD_SECONDS = 0.0125

#: How long a message may wait for a slot here if slots become free more slowly than expected.
PATIENCE_SECONDS = 0.05

#: Weight of the last run in the average; one long run stops prefetching at once.
_WEIGHT = 0.2


class Prefetched:
    """One worker's messages that wait for its slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._most = max(0, ENOUGH - slots)
        self._occupied_seconds = 1.0
        self._waiting: deque[Delivery] = deque()
        self._until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, seconds: float) -> None:
        """Record how long a task occupied its slot, including time in which others ran."""
        self._occupied_seconds += (seconds - self._occupied_seconds) * _WEIGHT

    @property
    def room(self) -> int:
        """How many messages may be taken now in excess of the free slots."""
        freed = self._slots * AHEAD_SECONDS / self._occupied_seconds
        return min(self._most, int(freed))

    def put(self, deliveries: Iterable[Delivery]) -> None:
        """Let messages from one take wait."""
        self._waiting.extend(deliveries)
        self._until = monotonic() + PATIENCE_SECONDS

    def take(self, slots: int) -> list[Delivery]:
        """The first messages, up to this many; none if they have waited too long."""
        if monotonic() > self._until:
            return []
        return [self._waiting.popleft() for _ in range(min(slots, len(self._waiting)))]

    def overdue(self) -> Sequence[Delivery]:
        """The messages that have waited too long, to give back; also resets the average."""
        if not self._waiting or monotonic() <= self._until:
            return ()
        self._occupied_seconds = 1.0
        return self.clear()

    def clear(self) -> Sequence[Delivery]:
        """All waiting messages, to give back."""
        waiting = tuple(self._waiting)
        self._waiting.clear()
        return waiting
