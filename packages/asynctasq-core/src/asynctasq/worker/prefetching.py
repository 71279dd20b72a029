"""Messages taken before there is a slot for them, so that short tasks share their round trips.

With few slots and tasks that take less time than a round trip, a worker would mostly wait for the
broker. Owns the rule that taking ahead delays nobody: no more than will have a slot in a moment, as
fast as slots become free, and what found none is given back to be run by others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic

from ..brokers import Delivery

#: Slots and messages ahead together: beyond that, a round trip costs little for each message.
ENOUGH = 100

#: What is taken ahead should have its slot within this time.
AHEAD_SECONDS = 0.0125

#: How long a message may wait for a slot here, in case slots became free more slowly than expected.
PATIENCE_SECONDS = 0.05

#: Weight of the last run in the average; a long one puts an end to taking ahead at once.
_WEIGHT = 0.2


class Prefetched:
    """The messages of one worker that wait for its slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._most = max(0, ENOUGH - slots)
        self._occupied_seconds = 1.0
        self._waiting: deque[Delivery] = deque()
        self._until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, seconds: float) -> None:
        """Learn for how long a task occupied its slot, the time in which others ran included."""
        self._occupied_seconds += (seconds - self._occupied_seconds) * _WEIGHT

    @property
    def room(self) -> int:
        """How many messages more than there are free slots may be taken now."""
        freed = self._slots * AHEAD_SECONDS / self._occupied_seconds
        return min(self._most, int(freed))

    def put(self, deliveries: Iterable[Delivery]) -> None:
        """Let messages wait, all from the same take."""
        self._waiting.extend(deliveries)
        self._until = monotonic() + PATIENCE_SECONDS

    def take(self, slots: int) -> list[Delivery]:
        """The first messages, for as many slots; none once they have waited too long."""
        if monotonic() > self._until:
            return []
        return [self._waiting.popleft() for _ in range(min(slots, len(self._waiting)))]

    def overdue(self) -> Sequence[Delivery]:
        """Those that have waited too long, to be given back; tasks must prove short anew."""
        if not self._waiting or monotonic() <= self._until:
            return ()
        self._occupied_seconds = 1.0
        return self.clear()

    def clear(self) -> Sequence[Delivery]:
        """All of them, to be given back."""
        waiting = tuple(self._waiting)
        self._waiting.clear()
        return waiting
