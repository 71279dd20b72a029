"""The queues of one process: what the memory broker does, each call under one lock.

Brokers on several event loops and threads may share a store. Nothing here waits; waiting calls
learn of changes through `Waiters`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count

from .. import (
    Action,
    ConsumerOptions,
    DeadLetter,
    Delivery,
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
from ..waiters import Waiters
from .listing import page_of, shown
from .queue import MemoryQueue
from .remembered_values import RememberedValues


class MemoryStore:
    """The queues that brokers of one process share; thread-safe.

    Args:
        clock: Gives Unix time in seconds, to tell what is due. A test that moves it must call
            `wake` afterwards.
        lease_clock: Gives monotonic seconds, for leases and signs of life.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        lease_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.lease_clock = lease_clock
        self.takers = Waiters()
        self.readers = Waiters()
        self._lock = threading.Lock()
        self._queues: dict[str, MemoryQueue] = {}
        self._results: dict[tuple[str, str], tuple[float, bytes]] = {}
        self._expiring: list[tuple[float, tuple[str, str]]] = []
        self._workers: dict[str, tuple[float, WorkerInfo]] = {}
        self._leads: dict[str, tuple[float, str]] = {}
        self._values = RememberedValues(clock)
        self._serials = count(1)

    def wake(self) -> None:
        """Make every waiting call look again."""
        self.takers.wake()
        self.readers.wake()

    def put(self, messages: Iterable[Outgoing]) -> dict[str, str] | None:
        """Add the messages whose id is new and whose key is free; see `Sending.put`."""
        with self._lock:
            conflicts = self._put(messages)
        self.takers.wake()
        return conflicts

    def declare(self, queues: Iterable[str]) -> None:
        """Make the queues known."""
        with self._lock:
            for name in queues:
                self._named(name)

    def take(self, options: ConsumerOptions, limit: int) -> list[Delivery]:
        """Lease up to `limit` messages, without waiting."""
        taken: list[Delivery] = []
        with self._lock:
            until = self.lease_clock() + options.lease_seconds
            for name in options.queues:
                queue, left = self._current(name), limit - len(taken)
                taken += queue.take(left, options.worker.id, until)
        return taken

    def next_change(self, queues: Iterable[str]) -> float:
        """Seconds until time alone makes something ready; infinite if it never will."""
        with self._lock:
            now, lease_now = self.clock(), self.lease_clock()
            current = [q for name in queues if not (q := self._current(name)).is_paused]
            expiring = [queue.next_expiry - lease_now for queue in current]
            due = [queue.delayed[0][0] - now for queue in current if queue.delayed]
            opening = [queue.lines.next_opening() - now for queue in current]
            return min(expiring + due + opening, default=float("inf"))

    def next_due(self) -> float:
        """When the next delayed message of any queue is due; infinite if there is none."""
        with self._lock:
            queues = [self._current(name) for name in self._queues]
            return min((q.delayed[0][0] for q in queues if q.delayed), default=float("inf"))

    def settle(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Apply the outcomes; return those whose lease was lost."""
        lost: list[Outcome] = []
        with self._lock:
            for outcome in outcomes:
                queue = self._queue(outcome.delivery.queue)
                message = queue.held(outcome.delivery)
                if message is None:
                    lost.append(outcome)
                    continue
                if outcome.result is not None and outcome.action in (Action.DONE, Action.DEAD):
                    self._keep(queue.name, message.id, outcome.result, outcome.result_ttl)
                queue.apply(message, outcome)
        self.wake()
        return lost

    def renew(self, options: ConsumerOptions, held: Iterable[Delivery]) -> list[Delivery]:
        """Renew leases and the worker's sign of life; return the deliveries that were lost."""
        lost: list[Delivery] = []
        with self._lock:
            until = self.lease_clock() + options.lease_seconds
            self._workers[options.worker.id] = (until, options.worker)
            for delivery in held:
                message = self._queue(delivery.queue).held(delivery)
                if message is None:
                    lost.append(delivery)
                else:
                    message.at = until
        return lost

    def withdraw(self, worker_id: str, queues: Iterable[str], *, undo: bool) -> int:
        """Forget the worker and release what it holds; with `undo`, do not count the deliveries."""
        released = 0
        with self._lock:
            self._workers.pop(worker_id, None)
            for queue in map(self._queue, queues):
                for message in list(queue.running.values()):
                    if message.owner == worker_id:
                        queue.release(message, undo=undo)
                        released += 1
        self.takers.wake()
        return released

    def busy(self, queues: Iterable[str]) -> bool:
        """Whether any of the queues holds something that is neither dead nor paused."""
        with self._lock:
            return any(
                q.running if q.is_paused else len(q.messages) > len(q.dead) + q.parked
                for q in map(self._current, queues)
            )

    def state(self, queue: str, message_id: str) -> MessageState | None:
        """The message's state."""
        with self._lock:
            message = self._current(queue).messages.get(message_id)
            return message.state if message else None

    def held(self, queue: str, state: HeldState, limit: int, after: str | None) -> HeldPage:
        """A page of the messages in a state."""
        with self._lock:
            return page_of(self._current(queue).messages.values(), state, limit, after)

    def find_held(self, queue: str, message_ids: Iterable[str]) -> list[HeldMessage]:
        """The messages among these ids that are waiting, delayed or running."""
        with self._lock:
            known = self._current(queue).messages
            found = [known[i] for i in dict.fromkeys(message_ids) if i in known]
            return [shown(message) for message in found if message.state != "dead"]

    def remove(
        self, queue: str, message_ids: Iterable[str] | None, states: Container[MessageState]
    ) -> int:
        """Forget these messages, or all, if they are in one of the states; return how many."""
        with self._lock:
            q = self._current(queue)
            known = q.messages
            ids = list(known) if message_ids is None else message_ids
            found = [known[i] for i in ids if i in known and known[i].state in states]
            for message in found:
                q.forget(message)
        self.takers.wake()
        return len(found)

    def cancel(self, queue: str, message_id: str, result: bytes | None, ttl: float) -> bool:
        """Forget a message that has not started and keep `result`; return whether it did so."""
        with self._lock:
            q = self._current(queue)
            message = q.messages.get(message_id)
            if message is None or message.state not in ("waiting", "delayed"):
                return False
            q.forget(message)
            if result is not None:
                self._keep(queue, message_id, result, ttl)
        self.wake()
        return True

    def result(self, queue: str, message_id: str) -> bytes | None:
        """The result, until it expires."""
        with self._lock:
            expires, result = self._results.get((queue, message_id), (0.0, None))
            return result if expires > self.clock() else None

    def kept_results(self) -> int:
        """How many results are in memory."""
        with self._lock:
            return len(self._results)

    def stats(self) -> list[QueueStats]:
        """All queues that were ever named."""
        with self._lock:
            return [self._current(name).count() for name in sorted(self._queues)]

    def workers(self) -> list[WorkerInfo]:
        """Workers with a recent sign of life, and how many messages each is running."""
        with self._lock:
            now = self.lease_clock()
            owners = [m.owner for q in self._queues.values() for m in q.running.values()]
            return [
                replace(worker, running=owners.count(worker.id))
                for until, worker in self._workers.values()
                if until > now
            ]

    def dead_letters(self, queue: str) -> list[DeadLetter]:
        """All dead letters of the queue, newest first."""
        with self._lock:
            dead = reversed(self._queue(queue).dead.values())
            return [DeadLetter(m.queue, m.id, m.body, m.info, m.at) for m in dead]

    def retry_dead(self, queue: str, bodies: Iterable[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting; return how many were moved."""
        moved = 0
        with self._lock:
            q = self._queue(queue)
            for message_id, body in bodies:
                message = q.dead.get(message_id)
                if message is not None:
                    q.retry_dead(message, body)
                    moved += 1
        self.takers.wake()
        return moved

    def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take or renew a named lease; return whether `holder` has it."""
        with self._lock:
            now = self.lease_clock()
            until, leader = self._leads.get(name, (0.0, holder))
            if leader != holder and until > now:
                return False
            self._leads[name] = (now + ttl_seconds, holder)
            return True

    def resign(self, name: str, holder: str) -> None:
        """Give up a named lease if `holder` has it."""
        with self._lock:
            if self._leads.get(name, (0.0, ""))[1] == holder:
                del self._leads[name]

    def keys_in_use(self, queue: str, limit: int) -> list[KeyInUse]:
        """The policy keys in use, longest lines first."""
        with self._lock:
            q, now = self._current(queue), self.clock()
            found = q.unique.in_use(now) + q.lines.in_use(now)
        return sorted(found, key=lambda key: (-key.waiting, key.kind, key.key))[:limit]

    def pauses(self, queue: str) -> dict[str, bytes]:
        """The queue's pauses, by name."""
        with self._lock:
            return dict(self._queue(queue).pauses)

    def pause(self, name: str, pause: str, value: bytes) -> None:
        """Begin a pause."""
        with self._lock:
            queue = self._named(name)
            queue.pauses = {**queue.pauses, pause: bytes(value)}
        self.takers.wake()  # a consumer in burst mode may be done now

    def resume(self, name: str, pause: str) -> bool:
        """End a pause and resume the messages parked under its name."""
        with self._lock:
            had_any = self._queue(name).resume(pause)
        self.takers.wake()
        return had_any

    def values(self, queue: str, kind: str) -> dict[str, bytes]:
        """All values of a kind."""
        with self._lock:
            return self._values.all(queue, kind)

    def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value."""
        with self._lock:
            return self._values.get(queue, kind, name)

    def set_value(
        self, queue: str, kind: str, name: str, value: bytes | None, ttl_seconds: float | None
    ) -> None:
        """Keep a value, or delete it."""
        with self._lock:
            self._values.set(queue, kind, name, value, ttl_seconds)

    def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind."""
        with self._lock:
            self._values.delete_all(queue, kind)

    def replace_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        expected: bytes | None,
        messages: Sequence[Outgoing],
    ) -> bool:
        """Replace a value and put messages if the current value is `expected`."""
        with self._lock:
            if self._values.get(queue, kind, name) != expected:
                return False
            self._values.set(queue, kind, name, value, None)
            self._put(messages)
        self.takers.wake()
        return True

    # The methods below must be called with the lock held.

    def _put(self, messages: Iterable[Outgoing]) -> dict[str, str] | None:
        conflicts: dict[str, str] = {}
        for new in messages:
            if (holder := self._named(new.queue).put(new)) is not None:
                conflicts[new.id] = holder
        return conflicts or None

    def _named(self, name: str) -> MemoryQueue:
        """The queue, which exists from now on."""
        return self._queues.setdefault(name, self._queue(name))

    def _queue(self, name: str) -> MemoryQueue:
        """The queue; a throwaway empty one if it was never named."""
        queue = self._queues.get(name)
        return queue or MemoryQueue(name, self.clock, self.lease_clock, self._serials)

    def _current(self, name: str) -> MemoryQueue:
        """The queue, after moving whatever time has made ready to waiting."""
        return self._queue(name).catch_up()

    def _keep(self, queue: str, message_id: str, result: bytes, ttl: float) -> None:
        now = self.clock()
        self._results[queue, message_id] = (now + ttl, bytes(result))
        heappush(self._expiring, (now + ttl, (queue, message_id)))
        while self._expiring and self._expiring[0][0] <= now:
            key = heappop(self._expiring)[1]
            if key in self._results and self._results[key][0] <= now:
                del self._results[key]
