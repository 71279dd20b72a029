"""Settles many deliveries in one round trip to the broker.

Owns the deliveries that the worker holds: each stays held, and its lease is renewed, until the
broker has its outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from ..brokers import Backoff, Consumer, Delivery, Outcome
from ..errors import BrokerError, OutcomesRefused
from .jobs import Key

logger = logging.getLogger(__name__)

#: Maximum number of outcomes in one round trip.
BATCH = 500

#: Minimum time between round trips, so that each settles many short tasks. An outcome goes out at
#: once after a pause, or after a round trip with a single outcome.
INTERVAL_SECONDS = 0.005


class Settler:
    """Gathers outcomes while a round trip is under way, and sends them in the next one.

    Args:
        instead: Gives the outcome to settle in place of one that the broker refuses for good.

    Attributes:
        held: Deliveries whose outcome the broker does not have yet.
    """

    def __init__(self, consumer: Consumer, instead: Callable[[Outcome], Outcome]) -> None:
        self.held: dict[Key, Delivery] = {}
        self._lost: dict[Key, Delivery] = {}
        self._told: dict[int, Callable[[], None]] = {}
        self._consumer = consumer
        self._instead = instead
        self._finished: list[Outcome] = []
        self._applying: list[Outcome] = []
        self._under_way: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()

    def leased(self) -> list[Delivery]:
        """Deliveries whose lease is not known to be lost; may be called in any thread."""
        lost = self._lost
        return [d for key, d in list(self.held.items()) if lost.get(key) is not d]

    def note_lost(self, deliveries: Iterable[Delivery]) -> None:
        """Log, once per delivery, that others may have run these messages too."""
        for delivery in deliveries:
            key = (delivery.queue, delivery.id)
            if self._lost.get(key) is not delivery:
                self._lost[key] = delivery
                logger.warning("lease lost", extra={"id": delivery.id, "queue": delivery.queue})

    def add(self, outcome: Outcome, settled: Callable[[], None] | None = None) -> None:
        """Settle a held delivery as soon as possible.

        Args:
            settled: Called once the broker has accepted the outcome.
        """
        if settled is not None:
            self._told[id(outcome)] = settled
        self._finished.append(outcome)
        self._wake.set()

    def forget(self, key: Key) -> None:
        """Let go of a delivery that the task's own transaction has settled."""
        del self.held[key]
        self._lost.pop(key, None)

    def retake(self, delivery: Delivery) -> bool:
        """Settle an outcome that the broker does not have yet under the message's new delivery.

        The lease expired while the broker was away, and this worker took the message again.

        Returns:
            Whether there is such an outcome; if not, the message has to run.
        """
        for outcome in (*self._applying, *self._finished):
            former = outcome.delivery
            # A retry may come back to the same worker, too, but its deliveries start again at one.
            if (former.queue, former.id) == (delivery.queue, delivery.id) and (
                former.deliveries < delivery.deliveries
            ):
                outcome.delivery = self.held[delivery.queue, delivery.id] = delivery
                return True
        return False

    async def run(self) -> None:
        """Settle outcomes as they are added, until cancelled; waits for a broker that is away."""
        backoff = Backoff()
        while True:
            await self._wake.wait()
            started = monotonic()
            batch = self._finished[:BATCH]
            # Shielded: if sent again, outcomes that the broker has would look like lost leases.
            self._under_way = asyncio.create_task(self._settle_some(batch, backoff))
            await asyncio.shield(self._under_way)
            if not self._finished:
                self._wake.clear()
            wait = started + INTERVAL_SECONDS - monotonic()
            if len(batch) > 1 and len(self._finished) < BATCH and wait > 0:
                await asyncio.sleep(wait)

    async def finish(self) -> None:
        """Settle what is left after `run` was cancelled."""
        if self._under_way is not None:
            await self._under_way
        backoff = Backoff()
        while self._finished:
            await self._settle_some(self._finished[:BATCH], backoff)

    async def flush(self) -> None:
        """Wait until the broker has every outcome added so far."""
        while self._finished or self._applying:
            self._drained.clear()
            await self._drained.wait()

    async def _settle_some(self, batch: list[Outcome], backoff: Backoff) -> None:
        self._applying = batch
        del self._finished[: len(batch)]
        await self._apply(batch, backoff)
        self._applying = []
        self._drained.set()

    async def _apply(self, batch: list[Outcome], backoff: Backoff) -> None:
        while True:
            sent = [outcome.delivery for outcome in batch]
            refused: Sequence[Outcome] = ()
            try:
                lost = await self._consumer.settle(batch)
            except OutcomesRefused as e:
                lost, refused = list(e.lost), e.refused
                break
            except BrokerError as e:
                logger.warning("cannot settle, retrying", extra={"error": str(e)})
                await asyncio.sleep(backoff.next())
            else:
                break
        backoff.reset()
        for outcome, delivery in zip(batch, sent, strict=True):
            key = (delivery.queue, delivery.id)
            if outcome.delivery is not delivery and outcome in lost:  # taken again meanwhile
                lost.remove(outcome)
                self._finished.append(outcome)
                continue
            settled = self._told.pop(id(outcome), None) if self._told else None
            if any(outcome is one for one in refused):
                self._finished.append(self._instead(outcome))
                continue
            if settled is not None and outcome not in lost:
                settled()
            if self.held.get(key) is outcome.delivery:  # and not delivered again meanwhile
                del self.held[key]
        self.note_lost(outcome.delivery for outcome in lost)
        if self._lost:
            for delivery in sent:
                self._lost.pop((delivery.queue, delivery.id), None)
