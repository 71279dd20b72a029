"""The embedded broker: one SQLite file that the processes of one machine share.

Every transition is one transaction (`sqlite_transitions`), so a process killed at any moment loses
nothing. The file must be on a local disk: network file systems (NFS, SMB) do not keep the locks and
the shared memory that SQLite needs, and damage it. Delete or replace the file only while nothing
uses it. Leases and delays follow the machine's clock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from random import getrandbits

from ...config.settings import SQLiteConfig
from ...errors import BrokerError
from .. import (
    Action,
    ConsumerOptions,
    DeadLetter,
    Delivery,
    Finding,
    MessageState,
    Outcome,
    Outgoing,
    QueueStats,
    WorkerInfo,
)
from ..waiters import wait
from . import checks as sqlite_checks
from . import queries as sqlite_queries
from . import transitions as sqlite_transitions
from .file import SQLiteFile, absolute_path
from .queries import NEVER
from .thread import SQLiteThread
from .transitions import CHUNK, DEAD, DELAYED, LEASED, WAITING

logger = logging.getLogger(__name__)


class SQLiteBroker:
    """A broker on one file; made with its folder when first used.

    Every method raises `BrokerUnavailable` when the file is locked beyond `busy_timeout`, or cannot
    be read or written at the moment, and `BrokerError` when it is damaged or no queue file.
    """

    def __init__(self, config: SQLiteConfig) -> None:
        # Once and for all, for the working directory may change before the file is opened.
        self._config = replace(config, path=absolute_path(config.path))
        self.timeout_seconds = config.busy_timeout
        self._thread = SQLiteThread(self._config)

    async def put(self, messages: Sequence[Outgoing]) -> None:
        """Add the messages: all of them, or none if there is an error."""
        if messages:
            await self._thread.write(sqlite_transitions.put, messages)
            self._thread.takers.wake()

    def consumer(self, options: ConsumerOptions) -> SQLiteConsumer:
        """A consumer that has not started yet."""
        return SQLiteConsumer(self._config, self._thread, options)

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now."""
        return await self._thread.read(sqlite_queries.state, queue, message_id)

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a message that has not started."""
        return await self._thread.write(
            sqlite_transitions.cancel, queue, message_id, result, result_ttl
        )

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """The kept result, awaited."""
        results = self._thread.results
        with results.waiter(queue, message_id) as future:
            found = await self._thread.read(results.find, queue, message_id)
            if found is not None or timeout_seconds <= 0:
                return found
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await future
            except TimeoutError:
                return None

    async def stats(self) -> list[QueueStats]:
        """Every known queue, by name."""
        return await self._thread.read(sqlite_queries.stats)

    async def workers(self) -> list[WorkerInfo]:
        """Workers with a recent sign of life."""
        return await self._thread.read(sqlite_queries.workers)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the dead letters, newest first."""
        return await self._thread.read(sqlite_queries.dead_letters, queue, limit, offset)

    async def dead_letter(self, queue: str, message_id: str) -> DeadLetter | None:
        """One dead letter."""
        return await self._thread.read(sqlite_queries.dead_letter, queue, message_id)

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting."""
        moved = await self._thread.write(sqlite_transitions.retry_dead, queue, bodies)
        self._thread.takers.wake()
        return moved

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete dead letters."""
        if message_ids is None:
            return await self._delete_all(queue, [(DEAD, NEVER)])
        return await self._thread.write(sqlite_transitions.delete_dead, queue, message_ids)

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed."""
        released = (LEASED, time.time())
        return await self._delete_all(queue, [(WAITING, NEVER), (DELAYED, NEVER), released])

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Let go of everything leased to a worker known to be dead."""
        released = await self._thread.write(
            sqlite_transitions.withdraw, worker_id, queues, undo=False
        )
        self._thread.takers.wake()
        return released

    async def check(self) -> list[Finding]:
        """Whether the file can be written, and what its disk is like."""
        try:
            await self._thread.write(sqlite_transitions.declare, ())
        except BrokerError as e:
            return [Finding("error", "sqlite", str(e))]
        return await self._thread.run(sqlite_checks.findings)

    def describe(self) -> str:
        """`sqlite` and the absolute path."""
        return f"sqlite {self._config.path}"

    async def close(self) -> None:
        """Close the connection."""
        await self._thread.close()

    async def _delete_all(self, queue: str, states: Iterable[tuple[int, float]]) -> int:
        """Delete in chunks, so that no other process waits long for the end of a transaction."""
        deleted = 0
        for state, until in states:
            chunk = CHUNK
            while chunk == CHUNK:
                chunk = await self._thread.write(
                    sqlite_transitions.delete_some, queue, state, until
                )
                deleted += chunk
        return deleted


class SQLiteConsumer:
    """One worker's end of a queue file."""

    def __init__(
        self, config: SQLiteConfig, thread: SQLiteThread, options: ConsumerOptions
    ) -> None:
        self._thread = thread
        self._options = options
        self._leases = count(getrandbits(48))
        self._renewing = threading.Lock()
        self._lease_file = SQLiteFile(config)

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
                taken, ready_at = await self._attempt(limit)
                left = deadline - time.monotonic()
                if taken or left <= 0:
                    return taken
                await wait(changed, min(left, max(0.0, ready_at - time.time())))

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply the outcomes in one transaction."""
        if not outcomes:
            return []
        lost = await self._thread.write(sqlite_transitions.settle, outcomes)
        if any(outcome.action in (Action.RETRY, Action.RELEASE) for outcome in outcomes):
            self._thread.takers.wake()
        return lost

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases and the worker's sign of life, on a connection of its own."""
        with self._renewing, self._lease_file.transaction() as db:
            return sqlite_transitions.renew(db, self._options, held)

    async def idle(self) -> bool:
        """Whether its queues hold nothing but dead letters."""
        queues = self._options.queues
        return await self._thread.read(sqlite_queries.ready_at, queues) == NEVER

    async def stop(self) -> None:
        """Release what is leased, withdraw the worker, close the connection for leases."""
        options = self._options
        try:
            await self._thread.write(
                sqlite_transitions.withdraw, options.worker.id, options.queues, undo=True
            )
        except BrokerError as e:
            logger.warning("leases were not released and will run out: %s", e)
        self._thread.takers.wake()
        await self._thread.run(self._close_lease_file)

    async def _attempt(self, limit: int) -> tuple[list[Delivery], float]:
        """What can be leased now, and else when to look again.

        Cancelled, it gives back what was leased meanwhile.
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
            ready_at = sqlite_queries.ready_at(db, queues)
        if ready_at > time.time():  # seen without keeping writers out
            return [], ready_at
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

    def _close_lease_file(self, _: SQLiteFile) -> None:
        with self._renewing:
            self._lease_file.close()
