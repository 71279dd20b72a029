"""Queues in this process's memory, for tests and scripts; they are gone when the process ends.

Waiting calls are woken by the change that they wait for, or by a timer for the next due message or
expiring lease; nothing polls. The transitions are in `store`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from .. import (
    ConsumerOptions,
    DeadLetter,
    Delivery,
    Finding,
    HeldMessage,
    HeldPage,
    HeldState,
    KeyInUse,
    MessageState,
    Outcome,
    Outgoing,
    QueueStats,
    WorkerInfo,
)
from ..waiters import wait
from .store import MemoryStore

__all__ = ["MemoryBroker", "MemoryConsumer", "MemoryStore"]


class MemoryBroker:
    """A broker inside this process.

    Args:
        store: The queues to share with other brokers of the process; by default, none are shared.
    """

    timeout_seconds = 5.0  # nothing here waits

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add the messages."""
        return self.store.put(messages)

    def consumer(self, options: ConsumerOptions) -> MemoryConsumer:
        """A consumer that has not started yet."""
        return MemoryConsumer(self.store, options)

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now."""
        return self.store.state(queue, message_id)

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a message that has not started."""
        return self.store.cancel(queue, message_id, result, result_ttl)

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """Wait for the result."""
        return await self._until(
            lambda: self.store.result(queue, message_id), lambda r: r is not None, timeout_seconds
        )

    async def _until(
        self,
        get: Callable[[], bytes | None],
        is_awaited: Callable[[bytes | None], bool],
        timeout_seconds: float,
    ) -> bytes | None:
        """What `get` returns once it is awaited, or at the timeout."""
        deadline = time.monotonic() + timeout_seconds
        with self.store.readers.waiter() as changed:
            while True:
                changed.clear()
                found = get()
                left = deadline - time.monotonic()
                if is_awaited(found) or left <= 0:
                    return found
                await wait(changed, left)

    async def stats(self) -> list[QueueStats]:
        """All known queues, ordered by name."""
        return self.store.stats()

    async def workers(self) -> list[WorkerInfo]:
        """Workers with a recent sign of life."""
        return self.store.workers()

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the dead letters, newest first."""
        return self.store.dead_letters(queue)[offset : offset + limit]

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters among these ids."""
        wanted = set(message_ids)
        return [d for d in self.store.dead_letters(queue) if d.id in wanted]

    async def held(
        self, queue: str, state: HeldState, *, limit: int = 100, after: str | None = None
    ) -> HeldPage:
        """A page of the messages in a state."""
        return self.store.held(queue, state, limit, after)

    async def find_held(self, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
        """The messages among these ids that are waiting, delayed or running."""
        return self.store.find_held(queue, message_ids)

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting."""
        return self.store.retry_dead(queue, bodies)

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete dead letters."""
        return self.store.remove(queue, message_ids, ("dead",))

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed."""
        return self.store.remove(queue, None, ("waiting", "delayed"))

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Release everything leased to a worker known to be dead."""
        return self.store.withdraw(worker_id, queues, undo=False)

    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take or renew a named lease."""
        return self.store.lead(name, holder, ttl_seconds)

    async def resign(self, name: str, holder: str) -> None:
        """Give up a named lease."""
        self.store.resign(name, holder)

    async def keys_in_use(self, queue: str, *, limit: int = 100) -> list[KeyInUse]:
        """The policy keys in use."""
        return self.store.keys_in_use(queue, limit)

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The queue's pauses, by name."""
        return self.store.pauses(queue)

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause."""
        self.store.pause(queue, name, value)

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause."""
        return self.store.resume(queue, name)

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind."""
        return self.store.values(queue, kind)

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value."""
        return self.store.value(queue, kind, name)

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
        self.store.set_value(queue, kind, name, value, ttl_seconds)
        if wakes:
            self.store.readers.wake()

    async def changed_value(
        self, queue: str, kind: str, name: str, known: bytes | None, timeout_seconds: float
    ) -> bytes | None:
        """Wait until a value is another than the known one."""
        return await self._until(
            lambda: self.store.value(queue, kind, name), lambda v: v != known, timeout_seconds
        )

    async def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind."""
        self.store.delete_values(queue, kind)

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
        replaced = self.store.replace_value(queue, kind, name, value, expected, messages)
        if replaced and wakes:
            self.store.readers.wake()
        return replaced

    async def check(self) -> list[Finding]:
        """Warn that nothing outlives the process."""
        return [
            Finding(
                "warning",
                "memory broker",
                "messages live in this process only and are gone when it ends",
                'use driver "sqlite" or "redis" outside of tests',
            )
        ]

    def describe(self) -> str:
        """`memory`."""
        return "memory"

    async def close(self) -> None:
        """Do nothing: the store keeps its messages."""


class MemoryConsumer:
    """One worker's end of a `MemoryStore`."""

    def __init__(self, store: MemoryStore, options: ConsumerOptions) -> None:
        self._store = store
        self._options = options

    async def start(self) -> None:
        """Announce the worker and its queues."""
        self._store.declare(self._options.queues)
        self._store.renew(self._options, ())

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Lease up to `limit` messages, waiting for the first."""
        deadline = time.monotonic() + timeout_seconds
        with self._store.takers.waiter() as changed:
            while True:
                changed.clear()
                taken = self._store.take(self._options, limit)
                left = deadline - time.monotonic()
                if taken or left <= 0:
                    return taken
                ready = self._store.next_change(self._options.queues)
                await wait(changed, min(left, max(ready, 0.0)))

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply the outcomes."""
        return self._store.settle(outcomes)

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases and the worker's sign of life."""
        return self._store.renew(self._options, held)

    async def idle(self) -> bool:
        """Whether its queues hold nothing but dead letters."""
        return not self._store.busy(self._options.queues)

    async def stop(self) -> None:
        """Release what is leased, withdraw the worker."""
        self._store.withdraw(self._options.worker.id, self._options.queues, undo=True)
