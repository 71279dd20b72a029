"""Messages that may be killing their workers run alone, so that they take no innocent one along.

Every message that a worker holds when it dies is delivered once more than it should be, and nobody
knows which of them did it. Owns the rule that a message close to its delivery limit runs with
nothing else beside it, so that only those that kill their worker by themselves reach the limit. (At
the default limit of five it takes three deadly messages at the same time, each killing its worker in
the moment in which an innocent one arrives there, to take that one along.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from time import monotonic

from .brokers import Delivery

#: So often every message may share its worker, also when the limit is low.
SHARED_DELIVERIES = 2


#: So long nothing is taken beside messages that were delivered before: what kills its worker mostly
#: does so at once, and messages on their way to the worker in that moment would count it too.
CAREFUL_SECONDS = 1.0


class Suspects:
    """What one worker knows of them.

    Args:
        most_deliveries: The delivery limit; a message runs alone for the last three.

    Attributes:
        is_draining: Whether a suspect was given back because others were running: nothing is
            taken until they have ended, since it comes again at once.
        alone: Id of the suspect that runs; nothing is taken beside it.
    """

    def __init__(self, most_deliveries: int) -> None:
        self._most = most_deliveries
        self._shared = max(SHARED_DELIVERIES, most_deliveries - 3)
        self.is_draining = False
        self.alone: str | None = None
        self._careful_until = 0.0

    def choose(
        self, deliveries: list[Delivery], *, is_busy: bool
    ) -> tuple[list[Delivery], Sequence[Delivery]]:
        """What of the messages taken together is to be begun, and what is to be given back.

        Args:
            is_busy: Whether something is running already.
        """
        suspect = next((d for d in deliveries if self._is_one(d)), None)
        if suspect is None:
            if any(d.deliveries > 1 for d in deliveries):
                self._careful_until = monotonic() + CAREFUL_SECONDS
            return deliveries, ()
        # All others go back, also the innocent ones: begun now, they would be its company.
        others = [d for d in deliveries if d is not suspect]
        if is_busy:
            self.is_draining = True
            return [], deliveries
        self.alone = suspect.id
        return [suspect], others

    def _is_one(self, delivery: Delivery) -> bool:
        return self._shared < delivery.deliveries <= self._most

    def patience_seconds(self) -> float:
        """How long to take nothing while something runs."""
        if self.alone or self.is_draining:
            return inf
        return self._careful_until - monotonic()

    def ended(self, message_id: str) -> None:
        """Take note that a message has ended."""
        if message_id == self.alone:
            self.alone = None
