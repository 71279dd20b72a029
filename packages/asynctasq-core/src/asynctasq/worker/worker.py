"""The worker: takes messages, runs them, passes on their outcomes.

Owns the order of starting and stopping. Taking, running and settling go on at the same time: while
tasks run, one round trip settles earlier outcomes and another fills free slots.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any

from ..app import current
from ..brokers import Backoff, Consumer, ConsumerOptions, Delivery, WorkerInfo
from ..errors import BrokerUnavailable
from ..events import WorkerStarted, WorkerStopped, flush, tell, wanted
from ..services.offered import check_schedules, services_of
from ..services.running import run_services
from ..tasks.task import check_annotations, registry
from ..wire.message import new_id
from .atomic import check_atomic_tasks
from .cancelling import end_cancelled
from .execution import Runner
from .following import Followers
from .jobs import declared_queues
from .leases import LeaseKeeper
from .loop_watch import LoopWatch
from .not_yet_known import NotYetKnownTasks
from .outcomes import instead_of_refused
from .poison_isolation import PoisonIsolation
from .prefetching import Prefetched
from .settling import Settler
from .slots import Slots
from .taking import Taker, wait_for_broker
from .threads import ThreadTracker
from .waiting_parents import WaitingParents

if TYPE_CHECKING:
    from .process_tasks import ProcessTasks

logger = logging.getLogger(__name__)

#: Time at shutdown for settling the last outcomes, and for telling listeners the last events.
LAST_SETTLE_SECONDS, LAST_EVENTS_SECONDS = 5.0, 5.0


class Worker:
    """One worker process's loop; runs once.

    Args:
        queues: In order of priority; by default `default` and those that tasks or adapters name.
        concurrency: How many tasks run at once.
        lease: Seconds after which other workers take over what a dead worker held.
        grace: Seconds that running tasks get to finish after `stop`.
        burst: End once the queues hold nothing waiting, delayed or running.
        modules: Modules that child processes for `process=True` tasks import.
        children: Maximum number of child processes; by default one per processor.
        max_tasks_per_child: Replace a child process after this many tasks; by default never.

    Attributes:
        left_running: Whether some tasks ignored the stop and still run after `run` has returned.
            Their messages are not given back: their leases are renewed until the tasks, or the
            process, end.
    """

    def __init__(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int = 20,
        lease: float = 30.0,
        grace: float = 30.0,
        burst: bool = False,
        modules: Sequence[str] = (),
        children: int | None = None,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if concurrency < 1 or lease <= 0 or grace < 0:
            raise ValueError("concurrency must be at least 1, lease above 0, grace 0 or more")
        if isinstance(queues, str):
            queues = (queues,)
        if min(children or 1, max_tasks_per_child or 1) < 1:
            raise ValueError("children and max_tasks_per_child must be at least 1")
        self._app = current()
        self.queues = tuple(
            queues or declared_queues(self._app.config.task_defaults, self._app.adapters)
        )
        self.concurrency = concurrency
        self.lease = lease
        self.grace = grace
        self.burst = burst
        self.modules = tuple(modules)
        self.children = children or len(os.sched_getaffinity(0))
        self.max_tasks_per_child = max_tasks_per_child
        self.info = _worker_info(self.queues, concurrency)
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self.left_running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_run = False
        self._threads: ThreadPoolExecutor
        self._slots: Slots | None = None
        self._consumer: Consumer
        self._settler: Settler
        self._followers: Followers
        self._taker: Taker
        self._prefetched: Prefetched
        self._unknown: NotYetKnownTasks
        self._keeper: LeaseKeeper
        self._late: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """Unique per process start."""
        return self.info.id

    @property
    def running(self) -> int:
        """How many tasks are running."""
        return len(self._slots) if self._slots is not None else 0

    @property
    def renewed_at(self) -> float | None:
        """When leases were last renewed, by `time.monotonic`; `None` before it has started."""
        return self._keeper.renewed_at if self._slots is not None else None

    @property
    def is_stopping(self) -> bool:
        """Whether it has stopped taking messages."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Stop taking messages and end when running tasks have; a second call skips that wait.

        May be called in any thread and from signal handlers.
        """
        if self._loop is None:
            self._stop_here()
            return
        with suppress(RuntimeError):  # the loop is closed: the worker has ended already
            self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until nothing is left; a worker runs once.

        Waits for a broker that cannot be reached, at the start or later. Cancelling this means
        `stop`: the cancellation takes effect when the worker has ended, at most `grace` and a few
        seconds later; a second one skips the grace. The event loop gets the worker's own default
        executor, so that the worker knows what its tasks still do in threads.

        Raises:
            ConfigurationError: An annotation of a task cannot be resolved, no adapter can run an
                atomic task, or a schedule cannot be honoured.
            BrokerError: The broker refuses at the start, and would again. Later refusals are waited
                out, as somebody may be changing a password.
            RuntimeError: It has run already.
        """
        if self._has_run:
            raise RuntimeError("this worker has run already: make another, a Worker runs once")
        self._has_run = True
        check_annotations(registry.values())
        check_atomic_tasks(self._app.config, self._app.adapters, registry.values())
        check_schedules(self._app)
        self._loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._live())
        cancelled: asyncio.CancelledError | None = None
        while not life.done():
            try:
                await asyncio.wait({life})
            except asyncio.CancelledError as e:
                cancelled = e
                self._stop_here()
        if cancelled is None:
            life.result()
            return
        if not life.cancelled() and (error := life.exception()) is not None:
            raise error
        raise cancelled

    async def _live(self) -> None:
        options = ConsumerOptions(self.info, self.queues, self.lease)
        self._consumer = self._app.open_broker().consumer(options)
        if not await self._connect():
            return
        self._unknown = NotYetKnownTasks(self._app.config)
        self._settler = Settler(
            self._consumer, partial(instead_of_refused, self._app.config, self._app.adapters)
        )
        slots = self._furnish()
        self._keeper = self._lease_keeper(slots)
        self._slots = slots
        watch = LoopWatch(slots.fields_of, self._note_blocked)
        services = asyncio.create_task(
            run_services(self._app.open_broker(), self.id, services_of(self._app))
        )
        settling = asyncio.create_task(self._settler.run())
        cancelling = asyncio.create_task(end_cancelled(self._app.open_broker(), slots))
        noting = asyncio.create_task(self._unknown.run(self._app.open_broker()))
        try:
            await self._call_adapters("worker_started")
            if WorkerStarted in wanted:
                queues, concurrency = self.queues, self.concurrency
                tell(WorkerStarted(worker=self.id, queues=queues, concurrency=concurrency))
            self._keeper.start()
            watch.start()
            await self._take_until_stopped(settling)
        finally:
            self._stop.set()
            await self._wind_down(slots)
            for beside in (services, settling, cancelling, noting):
                beside.cancel()
            await asyncio.wait({services, settling, cancelling, noting})
            await self._settle_the_last()
            watch.stop()
            self.left_running = bool(slots)
            if self.left_running:
                self._late = asyncio.create_task(self._part_late(slots))
            else:
                await self._part(slots)

    # --- starting -----------------------------------------------------------------------

    async def _connect(self) -> bool:
        """Start the consumer; `False` if the worker was stopped while it waited for the broker."""
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                await self._consumer.start()
            except BrokerUnavailable as e:
                await wait_for_broker("start", e, backoff)
            else:
                return True
        return False

    def _furnish(self) -> Slots:
        """Make the parts that take and run messages."""
        app = self._app
        ThreadTracker.of(asyncio.get_running_loop())
        self._threads = ThreadPoolExecutor(self.concurrency, "asynctasq")
        self._prefetched = prefetched = Prefetched(self.concurrency)
        self._followers = Followers(app.config, app.adapters, app.open_broker(), app.outbox)
        slots = Slots(
            self._settler,
            Runner(app.config, app.adapters, self._threads, app.joining),
            self._new_processes,
            prefetched,
            WaitingParents(self.concurrency, self.queues),
            self._unknown,
            self._followers,
            self._stop.is_set,
        )
        self._taker = Taker(
            self._consumer,
            self._settler,
            slots,
            prefetched,
            PoisonIsolation(app.config.max_deliveries),
            self.concurrency,
            app.outbox.until_sent,
            burst=self.burst,
        )
        return slots

    def _new_processes(self) -> ProcessTasks:
        from .process_tasks import ProcessTasks

        app, most = self._app, self.max_tasks_per_child
        return ProcessTasks(
            app.config, app.adapters, self.modules, self.children, most, app.joining
        )

    def _lease_keeper(self, slots: Slots) -> LeaseKeeper:
        loop = asyncio.get_running_loop()
        settler = self._settler

        def held() -> list[Delivery]:
            return slots.alive() if loop.is_closed() else settler.leased()

        def note(lost: list[Delivery]) -> None:
            # Deliveries no longer in slots were settled before the renewal: done, not lost.
            settler.note_lost(d for d in lost if d in slots and not slots.is_settling(d))

        def lose(lost: list[Delivery]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(note, lost)

        return LeaseKeeper(self._consumer, self.lease, held, lose)

    def _note_blocked(self, is_blocked: bool) -> None:
        """Make the next sign of life say whether the event loop responds."""
        self.info.is_blocked = is_blocked

    async def _take_until_stopped(self, settling: asyncio.Task[None]) -> None:
        taking = asyncio.create_task(self._taker.run())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({taking, stopped, settling}, return_when=asyncio.FIRST_COMPLETED)
            for task in (taking, settling):
                if task.done():
                    task.result()
        finally:
            stopped.cancel()
            taking.cancel()
            await asyncio.wait({taking})

    # --- stopping -----------------------------------------------------------------------

    async def _wind_down(self, slots: Slots) -> None:
        """Let running tasks end within the grace time, then cancel the rest."""
        slots.tell_stopping()
        self._taker.give_back(self._prefetched.clear())
        emptied = asyncio.create_task(slots.until_empty())
        hurried = asyncio.create_task(self._hurry.wait())
        try:
            # Cancelled directly, not through `run`: everything is being cancelled, so hurry.
            with suppress(asyncio.CancelledError):
                await asyncio.wait(
                    {emptied, hurried}, timeout=self.grace, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            emptied.cancel()
            hurried.cancel()
        if slots:
            logger.warning("grace time is over", extra={"running": len(slots)})
            await slots.cancel()

    async def _settle_the_last(self) -> None:
        try:
            async with asyncio.timeout(LAST_SETTLE_SECONDS):
                await self._settler.finish()
                await self._followers.finish()
        except TimeoutError:
            logger.warning("stopped before the broker took the last outcomes")

    async def _part(self, slots: Slots) -> None:
        """Let go of everything once nothing runs any more."""
        loop = asyncio.get_running_loop()
        # Not in the default executor: tasks may have filled its threads for ever.
        if wanted:
            if WorkerStopped in wanted:
                tell(WorkerStopped(worker=self.id))
            await loop.run_in_executor(self._threads, flush, LAST_EVENTS_SECONDS)
        await loop.run_in_executor(self._threads, self._keeper.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._consumer.stop()
        await slots.close()
        await self._call_adapters("worker_stopped")

    async def _part_late(self, slots: Slots) -> None:
        """Part when tasks that ignored cancellation have ended, if the loop lives that long."""
        await slots.until_empty()
        await self._settle_the_last()
        await self._part(slots)

    def kill_processes(self) -> None:
        """Kill the child processes and whatever they started; may be called in any thread."""
        if self._slots is not None:
            self._slots.kill_processes()

    async def give_back(self) -> None:
        """Give back what is still running; only for a process that does nothing more after this."""
        if self._late is not None:
            self._late.cancel()
        self.kill_processes()
        await self._consumer.stop()

    async def _call_adapters(self, hook: str) -> None:
        for adapter in self._app.adapters.with_hook(hook):
            try:
                answer: Any = getattr(adapter, hook)(self)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("%s of an adapter failed", hook, extra={"adapter": adapter.name})


def _worker_info(queues: tuple[str, ...], concurrency: int) -> WorkerInfo:
    host, pid = socket.gethostname(), os.getpid()
    worker_id = f"{host}-{pid}-{new_id()[-8:]}"
    return WorkerInfo(worker_id, host, pid, queues, concurrency, started_at=time())
