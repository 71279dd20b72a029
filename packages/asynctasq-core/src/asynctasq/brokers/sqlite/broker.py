"""The embedded broker: one SQLite file that the processes of one machine share.

Every transition is one transaction (`transitions`), so killing a process at any moment loses
nothing. The file must be on a local disk: network file systems (NFS, SMB) do not support the locks
and shared memory that SQLite needs, and would corrupt the file. Delete or replace the file only
while nothing uses it. Delays follow the wall clock, leases a monotonic one (`clock`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...errors import BrokerError
from .. import (
    ConsumerOptions,
    DeadLetter,
    Finding,
    HeldMessage,
    HeldPage,
    HeldState,
    KeyInUse,
    MessageState,
    Outgoing,
    QueueStats,
    WorkerInfo,
)
from . import clock
from . import doctor as sqlite_doctor
from . import keys as sqlite_keys
from . import listing as sqlite_listing
from . import pauses as sqlite_pauses
from . import queries as sqlite_queries
from . import remembered_values as sqlite_remembered
from . import transitions as sqlite_transitions
from .config import SQLiteConfig
from .consumer import LeaseFile, SQLiteConsumer
from .file import absolute_path
from .queries import NEVER
from .states import BEHIND, DEAD, DELAYED, LEASED, LIMITED, RATED, WAITING
from .thread import SQLiteThread
from .transitions import CHUNK


class SQLiteBroker:
    """A broker on one file, which is created with its folder on first use.

    Every method raises `BrokerUnavailable` if the file stays locked beyond `busy_timeout` or cannot
    be read or written right now, and `BrokerError` if it is damaged or not a queue file.
    """

    def __init__(self, config: SQLiteConfig) -> None:
        # Resolve the path now: the working directory may change before the file is opened.
        self._config = replace(config, path=absolute_path(config.path))
        self.timeout_seconds = config.busy_timeout
        self._thread = SQLiteThread(self._config)
        self._lease_file = LeaseFile(self._config)

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add all the messages, or none if there is an error."""
        if not messages:
            return None
        conflicts = await self._thread.write(sqlite_transitions.put, messages)
        self._thread.takers.wake()
        return conflicts

    def consumer(self, options: ConsumerOptions) -> SQLiteConsumer:
        """A consumer that has not started yet."""
        return SQLiteConsumer(self._thread, self._lease_file, options)

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now."""
        return await self._thread.read(sqlite_queries.state, queue, message_id)

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a message that has not started."""
        cancelled = await self._thread.write(
            sqlite_transitions.cancel, queue, message_id, result, result_ttl
        )
        self._thread.takers.wake()  # the next in its line may run now
        return cancelled

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """Wait for the result."""
        results = self._thread.results
        with results.waiter(queue, message_id) as future:
            found = await self._thread.read(sqlite_queries.result, queue, message_id)
            if found is not None or timeout_seconds <= 0:
                return found
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await future
            except TimeoutError:
                return None

    async def stats(self) -> list[QueueStats]:
        """All known queues, ordered by name."""
        return await self._thread.read(sqlite_queries.stats)

    async def workers(self) -> list[WorkerInfo]:
        """Workers with a recent sign of life."""
        return await self._thread.read(sqlite_queries.workers)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the dead letters, newest first."""
        return await self._thread.read(sqlite_queries.dead_letters, queue, limit, offset)

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters among these ids."""
        return await self._thread.read(sqlite_queries.find_dead, queue, message_ids)

    async def held(
        self, queue: str, state: HeldState, *, limit: int = 100, after: str | None = None
    ) -> HeldPage:
        """A page of the messages in a state."""
        return await self._thread.read(sqlite_listing.held, queue, state, limit, after)

    async def find_held(self, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
        """The messages among these ids that are waiting, delayed or running."""
        return await self._thread.read(sqlite_listing.find_held, queue, message_ids)

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
        # First those that wait for others; otherwise each deletion would promote one of them.
        waiting = [(state, NEVER) for state in (BEHIND, LIMITED, RATED, WAITING, DELAYED)]
        return await self._delete_all(queue, [*waiting, (LEASED, clock.now())])

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Release everything leased to a worker known to be dead."""
        released = await self._thread.write(
            sqlite_transitions.withdraw, worker_id, queues, undo=False
        )
        self._thread.takers.wake()
        return released

    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take or renew a named lease."""
        return await self._thread.write(sqlite_transitions.lead, name, holder, ttl_seconds)

    async def resign(self, name: str, holder: str) -> None:
        """Give up a named lease."""
        await self._thread.write(sqlite_transitions.resign, name, holder)

    async def keys_in_use(self, queue: str, *, limit: int = 100) -> list[KeyInUse]:
        """The policy keys in use."""
        return await self._thread.read(sqlite_keys.keys_in_use, queue, limit)

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The queue's pauses, by name."""
        return await self._thread.read(sqlite_pauses.get_all, queue)

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause."""
        await self._thread.write(sqlite_transitions.declare, (queue,))
        await self._thread.write(sqlite_pauses.begin, queue, name, value)

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause; in chunks if much is parked, for the reason given at `_delete_all`."""
        ended, moved = await self._thread.write(sqlite_pauses.end, queue, name, CHUNK)
        some = moved
        while some == CHUNK:
            _, some = await self._thread.write(sqlite_pauses.end, queue, name, CHUNK)
        self._thread.takers.wake()
        return ended or moved > 0

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind."""
        return await self._thread.read(sqlite_remembered.get_all, queue, kind)

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value."""
        return await self._thread.read(sqlite_remembered.get, queue, kind, name)

    async def set_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        ttl_seconds: float | None = None,
        wakes: bool = False,
    ) -> None:
        """Keep a value, or delete it."""
        await self._thread.write(sqlite_remembered.keep, queue, kind, name, value, ttl_seconds)
        if wakes:
            await self._wake_for_values()

    async def changed_value(
        self, queue: str, kind: str, name: str, known: bytes | None, timeout_seconds: float
    ) -> bytes | None:
        """Wait until a value is another than the known one."""
        with self._thread.values.waiter(queue, kind, name, known) as future:
            found = await self.value(queue, kind, name)
            if found != known or timeout_seconds <= 0:
                return found
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await future
            except TimeoutError:
                return found

    async def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind; in chunks, for the reason given at `_delete_all`."""
        while await self._thread.write(sqlite_remembered.delete_some, queue, kind, CHUNK) == CHUNK:
            pass

    async def replace_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        expected: bytes | None,
        messages: Sequence[Outgoing] = (),
        wakes: bool = False,
    ) -> bool:
        """Replace a value and put messages in one step."""
        replaced = await self._thread.write(
            sqlite_transitions.replace_value, queue, kind, name, value, expected, messages
        )
        if replaced and messages:
            self._thread.takers.wake()
        if replaced and wakes:
            await self._wake_for_values()
        return replaced

    async def _wake_for_values(self) -> None:
        """Answer those in this process that wait for values; other processes look by themselves."""
        if awaited := self._thread.values:
            await self._thread.read(awaited.look)

    async def check(self) -> list[Finding]:
        """Check that the file can be written, and what its disk is like."""
        try:
            await self._thread.write(sqlite_transitions.declare, ())
        except BrokerError as e:
            return [Finding("error", "sqlite", str(e))]
        return await self._thread.run(sqlite_doctor.findings)

    def describe(self) -> str:
        """`sqlite` and the absolute path."""
        return f"sqlite {self._config.path}"

    async def close(self) -> None:
        """Close the connections."""
        if self._lease_file.is_open:
            await self._thread.run(self._lease_file.close)
        await self._thread.close()

    async def _delete_all(self, queue: str, states: Iterable[tuple[int, float]]) -> int:
        """Delete in chunks, so that no other process waits long for a transaction to end."""
        deleted = 0
        for state, until in states:
            chunk = CHUNK
            while chunk == CHUNK:
                chunk = await self._thread.write(
                    sqlite_transitions.delete_some, queue, state, until
                )
                deleted += chunk
        return deleted
