"""One worker's end of a queue file."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from itertools import count
from random import getrandbits

from ...errors import BrokerError
from .. import Action, ConsumerOptions, Delivery, Outcome
from ..waiters import wait
from . import queries as sqlite_queries
from . import transitions as sqlite_transitions
from .config import SQLiteConfig
from .file import SQLiteFile
from .thread import SQLiteThread

logger = logging.getLogger(__name__)


class LeaseFile:
    """The connection on which a broker's consumers renew leases, each from its own thread.

    Opens on first use, and again after it was closed.
    """

    def __init__(self, config: SQLiteConfig) -> None:
        self._file = SQLiteFile(config)
        self._using = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._file.is_open

    def renew(self, options: ConsumerOptions, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew leases and the worker's sign of life; return the deliveries that were lost."""
        with self._using, self._file.transaction() as db:
            return sqlite_transitions.renew(db, options, held)

    def close(self, _: SQLiteFile) -> None:
        """Close it; this may wait for a renewal, so the broker's thread must call it."""
        with self._using:
            self._file.close()


class SQLiteConsumer:
    """One worker's end of a queue file."""

    def __init__(
        self, thread: SQLiteThread, lease_file: LeaseFile, options: ConsumerOptions
    ) -> None:
        self._thread = thread
        self._lease_file = lease_file
        self._options = options
        self._leases = count(getrandbits(48))

    async def start(self) -> None:
        """Announce the worker and its queues."""
        await self._thread.write(sqlite_transitions.declare, self._options.queues)
        await self._thread.write(sqlite_transitions.renew, self._options, ())

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Lease up to `limit` messages, waiting for the first."""
        deadline = time.monotonic() + timeout_seconds
        with self._thread.takers.waiter() as changed:
            while True:
                changed.clear()
                taken, ready_in = await self._attempt(limit)
                left = deadline - time.monotonic()
                if taken or left <= 0:
                    return taken
                await wait(changed, min(left, max(0.0, ready_in)))

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply the outcomes in one transaction."""
        if not outcomes:
            return []
        lost = await self._thread.write(sqlite_transitions.settle, outcomes)
        if any(
            outcome.action not in (Action.DONE, Action.DEAD) or outcome.delivery.tag.is_special
            for outcome in outcomes
        ):
            self._thread.takers.wake()
        return lost

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases and the worker's sign of life, on a separate connection."""
        return self._lease_file.renew(self._options, held)

    async def idle(self) -> bool:
        """Whether its queues hold nothing but dead letters and paused messages."""
        return await self._thread.read(sqlite_queries.is_idle, self._options.queues)

    async def stop(self) -> None:
        """Release what is leased, withdraw the worker and close the lease connection."""
        options = self._options
        try:
            await self._thread.write(
                sqlite_transitions.withdraw, options.worker.id, options.queues, undo=True
            )
        except BrokerError as e:
            logger.warning("leases were not released and will run out: %s", e)
        self._thread.takers.wake()
        await self._thread.run(self._lease_file.close)

    async def _attempt(self, limit: int) -> tuple[list[Delivery], float]:
        """Lease what can be leased now; if nothing, say in how many seconds to look again.

        If cancelled, it gives back whatever was leased meanwhile.
        """
        attempt = asyncio.ensure_future(self._thread.run(lambda file: self._take(file, limit)))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            attempt.add_done_callback(self._give_back)
            raise

    def _take(self, file: SQLiteFile, limit: int) -> tuple[list[Delivery], float]:
        queues = self._options.queues
        with file.snapshot() as db:
            ready_in = sqlite_queries.ready_in(db, queues)
        if ready_in > 0:  # learnt from a snapshot, which does not block writers
            return [], ready_in
        with file.transaction() as db:
            taken = sqlite_transitions.take(db, self._options, next(self._leases), limit)
            return taken, 0.0

    def _give_back(self, attempt: asyncio.Task[tuple[list[Delivery], float]]) -> None:
        if attempt.cancelled() or attempt.exception() is not None:
            return
        if taken := attempt.result()[0]:
            self._giving_back = asyncio.ensure_future(self._release(taken))

    async def _release(self, taken: Sequence[Delivery]) -> None:
        try:
            await self.settle([Outcome(delivery, Action.RELEASE) for delivery in taken])
        except BrokerError as e:
            logger.warning("leases of a cancelled take were not released and will run out: %s", e)
