"""Runs messages that may be killing their workers alone, so that they take no innocent one along.

When a worker dies, every message that it held has used up a delivery, and no one knows which one
killed it. Owns the rule that a message's last permitted delivery runs with nothing alongside in its
worker: if the worker dies then, it was this message. Until then messages share their worker, and
all others go on in other workers meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from ..brokers import Delivery

#: How long a worker takes nothing because of a suspect: first until running tasks have ended, then
#: while the suspect runs. One that runs longer is probably long rather than deadly, and the
#: worker's other slots are better used.
SOLITUDE_SECONDS = 5.0


#: How long to take nothing alongside messages that were delivered before: a deadly message mostly
#: kills its worker at once, and messages on their way there would lose a delivery, too. Counted in
#: turns of the event loop, so that a process that hardly gets to run waits longer.
CAREFUL_TURNS, TURN_SECONDS = 10, 0.05


class PoisonIsolation:
    """What one worker knows about messages at their last permitted delivery.

    Args:
        most_deliveries: The delivery limit; with a limit of 1, no message runs alone.
    """

    def __init__(self, most_deliveries: int) -> None:
        self._most = most_deliveries
        self._until = self._turn_until = 0.0
        self._turns = 0
        self._is_making_room = self._has_made_room = False

    def choose(
        self, deliveries: list[Delivery], *, is_busy: bool
    ) -> tuple[list[Delivery], Sequence[Delivery]]:
        """Split messages taken together into those to begin and those to give back.

        Args:
            is_busy: Whether something is already running.
        """
        if over := [d for d in deliveries if d.deliveries > self._most]:
            # Those over the limit are not run; nothing may kill the worker before they are settled.
            return over, [d for d in deliveries if d not in over]
        suspect = next((d for d in deliveries if d.deliveries == self._most > 1), None)
        if suspect is None:
            if any(d.deliveries > 1 for d in deliveries):
                self._turns, self._turn_until = CAREFUL_TURNS, monotonic() + TURN_SECONDS
            return deliveries, ()
        self._until = monotonic() + SOLITUDE_SECONDS
        if is_busy and not self._has_made_room:
            # Give the suspect back, too: a deadly running task would cost it its last delivery.
            self._is_making_room = True
            return [], deliveries
        self._has_made_room = False
        # Give all others back, even innocent ones: they would run alongside it.
        return [suspect], [d for d in deliveries if d is not suspect]

    def patience_seconds(self) -> float:
        """Seconds to take nothing while something runs; ask again afterwards."""
        now = monotonic()
        if self._turns and now >= self._turn_until:
            self._turns, self._turn_until = self._turns - 1, now + TURN_SECONDS
        return max(self._until, self._turn_until if self._turns else 0.0) - now

    def waited(self) -> None:
        """Note that nothing was taken for as long as requested."""
        self._has_made_room |= self._is_making_room
        self._is_making_room = False
