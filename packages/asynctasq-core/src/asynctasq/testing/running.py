"""The queues of a test, and the worker that empties them.

It is the production worker. Its consumer moves the clock when only time is missing, and
`process=True` tasks run in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, cast

from ..adapters.fetching import fetch
from ..brokers import Broker, ConsumerOptions, Delivery, Outgoing, QueueStats
from ..brokers.memory.broker import MemoryBroker, MemoryConsumer
from ..brokers.memory.store import MemoryStore
from ..brokers.waiters import wait
from ..worker.execution import Runner, wanted_by
from ..worker.jobs import Job
from ..worker.outcomes import Verdict
from ..worker.worker import Worker
from .clock import Clock

if TYPE_CHECKING:
    from ..worker.process_tasks import ProcessTasks

#: How often to check whether a run has ended, in case nothing says so.
_LOOK_SECONDS = 0.05


class Queues:
    """The queues of one test.

    Attributes:
        put: Every message, in order, with its due time by the real clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.put: list[Outgoing] = []
        self.clock = clock
        self.store = MemoryStore(clock)

    def note(self, messages: Iterable[Outgoing]) -> None:
        """Note messages that were added, or that replaced others with the same id."""
        new = {message.id: message for message in messages}
        self.put = [message for message in self.put if message.id not in new] + [*new.values()]

    def open(self) -> Broker:
        """A broker over these queues."""
        return _TestBroker(self)


class _TestBroker(MemoryBroker):
    def __init__(self, queues: Queues) -> None:
        super().__init__(queues.store)
        self._queues = queues

    async def put(self, messages: Sequence[Outgoing]) -> Any:
        """Add the messages, counting delays from the test's time."""
        clock = self._queues.clock
        moved = [m if m.due is None else replace(m, due=clock.of(m.due)) for m in messages]
        refused = await super().put(moved)
        self._queues.note(m for m in messages if m.id not in (refused or ()))
        return refused

    def consumer(self, options: ConsumerOptions) -> MemoryConsumer:
        """A consumer that moves the clock."""
        return _TestConsumer(self._queues, options)


class _TestConsumer(MemoryConsumer):
    def __init__(self, queues: Queues, options: ConsumerOptions) -> None:
        super().__init__(queues.store, options)
        self._clock = queues.clock
        self._all = options

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Take what is due, or move the clock to what is due next; nothing if nothing is left."""
        with self._store.takers.waiter() as changed:
            while True:
                changed.clear()
                stats = self._store.stats()
                self._options = replace(self._all, queues=tuple(q.name for q in stats))
                if taken := self._store.take(self._options, limit):
                    return taken
                if any(q.running for q in self._store.stats()):
                    await wait(changed, _LOOK_SECONDS)
                elif not self._has_moved():
                    return []

    def _has_moved(self) -> bool:
        due = self._store.next_due()
        if due == inf or due > self._clock.until:
            return False
        self._clock.move_to(due)
        return True

    async def idle(self) -> bool:
        """Whether only messages are left that are due later or held back by a pause."""
        return not any(q.running or self._may_go_on(q) for q in self._store.stats())

    def _may_go_on(self, queue: QueueStats) -> bool:
        return bool(queue.waiting) and "" not in self._store.pauses(queue.name)


class TestWorker(Worker):
    """A worker that ends when nothing is due, and runs `process=True` tasks here."""

    __test__ = False

    def _new_processes(self) -> ProcessTasks:
        runner = Runner(self._app.config, self._app.adapters, self._threads)
        return cast("ProcessTasks", _Inline(runner))


class _Inline:
    """Stands in for child processes: runs their jobs in a thread of this process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run(self, job: Job) -> Verdict:
        wanted = wanted_by(job)
        fetched = None
        if wanted is not None:
            (fetched,) = await fetch(self._runner.adapters, [wanted])
        return await self._runner.run(job, wanted, fetched)

    def tell_stopping(self) -> None:
        """Do nothing: its jobs ask the worker."""

    def kill(self) -> None:
        """Do nothing: the threads end with the worker."""

    async def close(self) -> None:
        """Do nothing: there is nothing to end."""
