"""Renews leases from a separate thread, so that a blocked event loop does not lose them.

Owns the promise that a broker outage shorter than the lease minus a second loses no lease.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from ..brokers import Backoff, Consumer, Delivery
from ..errors import BrokerError

logger = logging.getLogger(__name__)


#: Maximum time between renewals, and between attempts while the broker is away. Together with the
#: time that a renewal takes, they stay below the second in the promise above.
INTERVAL_SECONDS, AGAIN_SECONDS = 0.5, 0.2


class LeaseKeeper:
    """A thread that renews what a worker holds, at least three times per lease.

    Args:
        consumer: The consumer that holds the leases.
        lease_seconds: How long a lease lasts.
        held: Gives the deliveries held right now; called in the thread.
        lost: Called in the thread with deliveries whose lease was lost.

    Attributes:
        renewed_at: When it last renewed, by `time.monotonic`; `None` before the first time.
    """

    def __init__(
        self,
        consumer: Consumer,
        lease_seconds: float,
        held: Callable[[], Sequence[Delivery]],
        lost: Callable[[list[Delivery]], object],
    ) -> None:
        self._consumer = consumer
        self._interval = min(lease_seconds / 3, INTERVAL_SECONDS)
        self._held = held
        self._lost = lost
        self._is_failing = False
        self.renewed_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asynctasq-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after a renewal that is under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        most = min(AGAIN_SECONDS, self._interval)
        backoff = Backoff(first_seconds=most / 4, most_seconds=most)
        wait = self._interval
        while not self._stopping.wait(wait):
            if self._has_renewed():
                backoff.reset()
                wait = self._interval
            else:
                wait = backoff.next()

    def _has_renewed(self) -> bool:
        """Renew once; of several failures in a row, log only the first."""
        try:
            lost = self._consumer.renew(self._held())
        except BrokerError as e:
            if not self._is_failing:
                logger.warning("could not renew leases: %s", e)
            self._is_failing = True
            return False
        except Exception:  # this thread must survive any single failure
            if not self._is_failing:
                logger.exception("renewing leases failed")
            self._is_failing = True
            return False
        self._is_failing = False
        self.renewed_at = monotonic()
        if lost:
            self._lost(lost)
        return True
