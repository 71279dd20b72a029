"""Messages that may be killing their workers run alone, so that they take no innocent one along.

Every message that a worker holds when it dies is delivered once more than it should be, and nobody
knows which of them did it. Owns the rule that a message close to its delivery limit runs with
nothing else beside it, so that only those that kill their worker by themselves reach the limit.
(At the default limit of five it takes three deadly messages at the same time, each killing its
worker in the moment in which an innocent one arrives there, to take that one along.)
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from ..brokers import Delivery

#: So often every message may share its worker; once only if the limit is 3 or less, since being on
#: its way to a worker that dies may cost a message one of the others.
SHARED_DELIVERIES = 2

#: So long nothing is taken beside messages that were delivered before: what kills its worker mostly
#: does so at once, and messages on their way to the worker in that moment would count it too.
CAREFUL_SECONDS = 0.5

#: So long a suspect is left to others, and nothing is taken, while older tasks end. Those that go
#: on have not killed the worker in that time; waiting for them could idle all workers for hours.
DRAIN_SECONDS = 5.0

#: So long nothing runs beside a suspect. One that goes on for longer is rather a long task that was
#: interrupted often than a deadly one, and its worker's other slots are of use.
ALONE_SECONDS = 30.0


class Suspects:
    """What one worker knows of them.

    Args:
        most_deliveries: The delivery limit; a message runs alone for the last three at most. With a
            limit of 1 every message shares its only delivery.

    Attributes:
        alone: Id of the suspect that runs; for a while nothing is taken beside it.
    """

    def __init__(self, most_deliveries: int) -> None:
        self._most = most_deliveries
        self._shared = max(1 if most_deliveries <= 3 else SHARED_DELIVERIES, most_deliveries - 3)
        self.alone: str | None = None
        self._alone_until = 0.0
        self._careful_until = 0.0
        self._drain_until: float | None = None
        self._has_drained = False

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
        suspect = next((d for d in deliveries if self._is_one(d)), None)
        if suspect is None:
            self._has_drained = False
            if any(d.deliveries > 1 for d in deliveries):
                self._careful_until = monotonic() + CAREFUL_SECONDS
            return deliveries, ()
        if is_busy and not self._has_drained:
            # It comes again at once, so that taking would go round and round.
            self._drain_until = monotonic() + DRAIN_SECONDS
            return [], deliveries
        self._has_drained = False
        self.alone = suspect.id
        self._alone_until = monotonic() + ALONE_SECONDS
        # All others go back, also the innocent ones: begun now, they would be its company.
        return [suspect], [d for d in deliveries if d is not suspect]

    def _is_one(self, delivery: Delivery) -> bool:
        return self._shared < delivery.deliveries <= self._most

    def patience_seconds(self) -> float:
        """How long to take nothing while something runs."""
        if self.alone:
            return self._alone_until - monotonic()
        return max(self._careful_until, self._drain_until or 0.0) - monotonic()

    def waited(self) -> None:
        """Take note that nothing was taken for as long as was asked for."""
        self._has_drained |= self._drain_until is not None
        self._drain_until = None

    def ended(self, message_id: str) -> None:
        """Take note that a message has ended."""
        if message_id == self.alone:
            self.alone = None
