"""Takes messages for a worker's slots.

Owns the decisions how many to take, which of them to start now, keep waiting or give back, and, in
burst mode, when everything is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ..brokers import Action, Backoff, Consumer, Delivery, Outcome
from ..errors import BrokerError
from .poison_isolation import PoisonIsolation
from .prefetching import PATIENCE_SECONDS, Prefetched
from .settling import Settler
from .slots import Slots

logger = logging.getLogger(__name__)

#: How long `take` may wait for work, and in burst mode the time between looks at empty queues.
WAIT_SECONDS, BURST_WAIT_SECONDS = 5.0, 0.1


class Taker:
    """Takes messages for one worker, and gives back those that it must not run.

    Args:
        concurrency: How many slots there are.
        until_sent: Waits for the sends under way of what this process has committed.
        burst: End once nothing in the queues is waiting, delayed or running.
    """

    def __init__(
        self,
        consumer: Consumer,
        settler: Settler,
        slots: Slots,
        prefetched: Prefetched,
        isolation: PoisonIsolation,
        concurrency: int,
        until_sent: Callable[[], Awaitable[None]],
        *,
        burst: bool,
    ) -> None:
        self._consumer = consumer
        self._settler = settler
        self._slots = slots
        self._prefetched = prefetched
        self._isolation = isolation
        self._concurrency = concurrency
        self._until_sent = until_sent
        self._burst = burst
        self._backoff = Backoff()

    async def run(self) -> None:
        """Keep the slots filled until cancelled, or in burst mode until all is done."""
        while True:
            await self._until_others_may_run()
            free = self._concurrency - len(self._slots)
            self._slots.watch()
            if self._prefetched:
                self._slots.begin(self._prefetched.take(free))
                await self._until_slot_or_overdue()
            elif free <= 0:
                await self._slots.until_one_ends()
            elif not await self._fill(free):
                return

    async def _fill(self, free: int) -> bool:
        """Take for the free slots; return `False` when a burst is over."""
        try:
            deliveries = await self._take(free + self._prefetched.room)
        except BrokerError as e:
            await wait_for_broker("take", e, self._backoff)
            return True
        if deliveries is None:
            return False
        self._backoff.reset()
        await self._begin(deliveries, free)
        return True

    async def _take(self, limit: int) -> list[Delivery] | None:
        """Take messages; empty if none came in time, `None` when a burst is over."""
        deliveries = await self._consumer.take(limit, 0.0 if self._burst else WAIT_SECONDS)
        if self._burst and not deliveries:
            await self._settler.flush()
            await self._until_sent()
            if not self._settler.held and await self._consumer.idle():
                return None
            await self._slots.until_one_ends(BURST_WAIT_SECONDS)
        return deliveries

    async def _begin(self, deliveries: list[Delivery], free: int) -> None:
        if self._settler.held:
            deliveries = self._slots.without_known(deliveries)
        chosen, back = self._isolation.choose(deliveries, is_busy=bool(self._slots))
        if back:
            await self._settle_first(chosen, back)
        self._slots.begin(chosen[:free])
        if len(chosen) > free:
            self._prefetched.put(chosen[free:])
        # Let the new runs take their first steps before the next take: if one kills the worker,
        # that must not cost messages on their way here a delivery.
        await asyncio.sleep(0)

    async def _settle_first(self, chosen: Sequence[Delivery], back: Sequence[Delivery]) -> None:
        """Give messages back before others begin, which may kill the worker.

        Otherwise that would count against the messages given back, too.
        """
        self._hold(chosen)
        self.give_back(back)
        try:
            await self._settler.flush()
        except asyncio.CancelledError:
            self.give_back(chosen)
            raise

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Leave them to others, as if they had never been taken."""
        self._hold(deliveries)
        for delivery in deliveries:
            self._settler.add(Outcome(delivery, Action.RELEASE))

    def _hold(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._settler.held.setdefault((delivery.queue, delivery.id), delivery)

    async def _until_others_may_run(self) -> None:
        """Wait while a suspect runs alone, or until running tasks have ended so that it can."""
        while self._slots and (patience := self._isolation.patience_seconds()) > 0:
            self._slots.watch()
            await self._slots.until_one_ends(patience)
        self._isolation.waited()

    async def _until_slot_or_overdue(self) -> None:
        """Wait for a slot as long as prefetched messages may wait; then give them back."""
        if len(self._slots) >= self._concurrency:
            await self._slots.until_one_ends(PATIENCE_SECONDS)
        self.give_back(self._prefetched.overdue())


async def wait_for_broker(step: str, error: BrokerError, backoff: Backoff) -> None:
    """Log that the broker is unavailable, and give it time."""
    logger.warning("broker unavailable, retrying", extra={"step": step, "error": str(error)})
    await asyncio.sleep(backoff.next())
