"""Renewing leases from a thread of their own, so that a blocked event loop does not lose them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from ..brokers import Backoff, Consumer, Delivery
from ..errors import BrokerError

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """A thread that renews what a worker holds, three times per lease.

    Args:
        consumer: Whose leases.
        lease_seconds: How long a lease lasts.
        held: The deliveries held at the moment; called in the thread.
        lost: Called in the thread with deliveries whose lease was lost.
    """

    def __init__(
        self,
        consumer: Consumer,
        lease_seconds: float,
        held: Callable[[], Sequence[Delivery]],
        lost: Callable[[list[Delivery]], object],
    ) -> None:
        self._consumer = consumer
        self._interval = lease_seconds / 3
        self._held = held
        self._lost = lost
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asynctasq-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for a renewal that is under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(first_seconds=self._interval / 8, most_seconds=self._interval)
        wait = self._interval
        while not self._stopping.wait(wait):
            try:
                lost = self._consumer.renew(self._held())
            except BrokerError as e:
                logger.warning("could not renew leases: %s", e)
                wait = backoff.next()
                continue
            except Exception:  # supervised: this thread must outlive whatever happens to it once
                logger.exception("renewing leases failed")
                wait = backoff.next()
                continue
            backoff.reset()
            wait = self._interval
            if lost:
                self._lost(lost)
