"""Messages that may be killing their workers run alone, so that they take no innocent one along.

Every message that a worker holds when it dies is delivered once more than it should be, and nobody
knows which of them did it. Owns the rule that the last permitted delivery of a message runs with
nothing else beside it in its worker: whatever its worker dies of then, it was this message. All
others share their worker until then, and go on in other workers meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from ..brokers import Delivery

#: How long a worker takes nothing for the sake of a suspect: first until what runs there has ended,
#: then while it runs. What goes on for longer is rather a long task than a deadly one, and its
#: worker's other slots are of use.
SOLITUDE_SECONDS = 5.0


#: How long nothing is taken beside messages that were delivered before: what kills its worker does
#: so at once, mostly, and what is on its way there in that moment would lose a delivery too.
#: Counted in turns of the event loop, so that a process which hardly gets to run waits longer.
CAREFUL_TURNS, TURN_SECONDS = 10, 0.05


class PoisonIsolation:
    """What one worker knows of messages at their last permitted delivery.

    Args:
        most_deliveries: The delivery limit; with a limit of 1 every message shares its worker.
    """

    def __init__(self, most_deliveries: int) -> None:
        self._most = most_deliveries
        self._until = self._turn_until = 0.0
        self._turns = 0
        self._is_making_room = self._has_made_room = False

    def choose(
        self, deliveries: list[Delivery], *, is_busy: bool
    ) -> tuple[list[Delivery], Sequence[Delivery]]:
        """What of the messages taken together is to be begun, and what is to be given back.

        Args:
            is_busy: Whether something is running already.
        """
        if over := [d for d in deliveries if d.deliveries > self._most]:
            # Those over the limit are not run; nothing may kill the worker before that is settled.
            return over, [d for d in deliveries if d not in over]
        suspect = next((d for d in deliveries if d.deliveries == self._most > 1), None)
        if suspect is None:
            if any(d.deliveries > 1 for d in deliveries):
                self._turns, self._turn_until = CAREFUL_TURNS, monotonic() + TURN_SECONDS
            return deliveries, ()
        self._until = monotonic() + SOLITUDE_SECONDS
        if is_busy and not self._has_made_room:
            # Given back too: what runs may be deadly itself, and would cost it its last delivery.
            self._is_making_room = True
            return [], deliveries
        self._has_made_room = False
        # All others go back, also the innocent ones: begun now, they would be its company.
        return [suspect], [d for d in deliveries if d is not suspect]

    def patience_seconds(self) -> float:
        """How long to take nothing while something runs; ask again when it is over."""
        now = monotonic()
        if self._turns and now >= self._turn_until:
            self._turns, self._turn_until = self._turns - 1, now + TURN_SECONDS
        return max(self._until, self._turn_until if self._turns else 0.0) - now

    def waited(self) -> None:
        """Take note that nothing was taken for as long as was asked for."""
        self._has_made_room |= self._is_making_room
        self._is_making_room = False
