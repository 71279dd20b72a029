"""The worker: takes messages, runs them, hands on what became of them.

Owns the slots. Taking, running and settling go on at the same time: while tasks run, the outcomes
of those before them are settled in one round trip, and free slots are filled in another.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from . import outcomes
from .ahead import PATIENCE_SECONDS, Ahead
from .app import current
from .brokers import Action, Backoff, Consumer, ConsumerOptions, Delivery, Outcome, WorkerInfo
from .errors import BrokerError, MessageError, TaskCrashed
from .execution import Runner, scoped_adapters, wanted_by
from .jobs import Job, Key, declared_queues, recognise, task_name
from .leases import LeaseKeeper
from .message import new_id
from .outcomes import Verdict
from .references import Fetched, Wanted, fetch
from .settling import Settler, note_lost
from .suspects import Suspects

if TYPE_CHECKING:
    from .process_tasks import ProcessTasks

logger = logging.getLogger(__name__)

#: How long `take` may wait for work, and in burst mode the time between looks at empty queues.
WAIT_SECONDS, BURST_WAIT_SECONDS = 5.0, 0.1

#: How long cancelled tasks, and the last settling, may take at shutdown.
CANCEL_SECONDS, LAST_SETTLE_SECONDS = 2.0, 5.0


class Worker:
    """One worker process's loop.

    Args:
        queues: In order of priority; by default `default` and those that registered tasks name.
        concurrency: How many tasks run at once.
        lease: Seconds after which others take over what a dead worker held.
        grace: Seconds that running tasks get to finish after `stop`.
        burst: End once the queues hold nothing waiting, delayed or running.
        modules: What child processes for `process=True` tasks import.

    Attributes:
        left_running: Whether tasks ignored that they were stopped; they still run after `run`.
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
    ) -> None:
        if concurrency < 1 or lease <= 0 or grace < 0:
            raise ValueError("concurrency must be at least 1, lease above 0, grace 0 or more")
        self._app = current()
        self.queues = tuple(queues or declared_queues(self._app.config.task_defaults))
        self.concurrency = concurrency
        self.lease = lease
        self.grace = grace
        self.burst = burst
        self.modules = tuple(modules)
        self.info = _worker_info(self.queues, concurrency)
        self._stop, self._hurry, self._slot = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._running: dict[Key, asyncio.Task[None] | None] = {}
        self._jobs: dict[Key, Job] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._ahead = Ahead(concurrency)
        self._suspects = Suspects(self._app.config.max_deliveries)
        self.left_running = False
        self._told_to_stop = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumer: Consumer
        self._settler: Settler
        self._runner: Runner
        self._processes: ProcessTasks | None = None

    @property
    def id(self) -> str:
        """Unique per process start."""
        return self.info.id

    @property
    def running(self) -> int:
        """How many tasks are running."""
        return len(self._running)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called; true from then on, before the event loop has seen to it."""
        return self._told_to_stop

    def stop(self) -> None:
        """Take nothing more and end once running tasks have; called again, do not wait for them.

        May be called in any thread and from signal handlers.
        """
        self._told_to_stop = True
        if self._loop is None:
            self._stop_here()
        else:
            self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until nothing is left.

        A broker that cannot be reached, at the start or later, is waited for.
        """
        self._loop = asyncio.get_running_loop()
        options = ConsumerOptions(self.info, self.queues, self.lease)
        self._consumer = self._app.open_broker().consumer(options)
        if not await self._connect():
            return
        self._settler = Settler(self._consumer)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_call_adapters, self, "worker_stopped")
            stack.push_async_callback(self._close_processes)
            stack.push_async_callback(self._consumer.stop)
            threads = ThreadPoolExecutor(self.concurrency, "asynctasq")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            self._runner = Runner(self._app, threads, scoped_adapters(self._app))
            await _call_adapters(self, "worker_started")
            keeper = self._lease_keeper()
            keeper.start()
            stack.push_async_callback(asyncio.to_thread, keeper.stop)
            settling = asyncio.create_task(self._settler.run())
            stack.callback(settling.cancel)
            await self._take_until_stopped(settling)
            await self._wind_down()

    # --- starting -----------------------------------------------------------------------

    async def _connect(self) -> bool:
        """Start the consumer; `False` if the worker was stopped while it waited for the broker."""
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                await self._consumer.start()
            except BrokerError as e:
                await _wait_for_broker("start", e, backoff)
            else:
                return True
        return False

    def _lease_keeper(self) -> LeaseKeeper:
        loop = asyncio.get_running_loop()
        settler = self._settler

        def note(lost: list[Delivery]) -> None:
            # What has finished meanwhile was settled before the renewal: not lost, but done.
            note_lost([d for d in lost if (d.queue, d.id) in self._running])

        return LeaseKeeper(
            self._consumer,
            self.lease,
            lambda: list(settler.held.values()),
            lambda lost: loop.call_soon_threadsafe(note, lost),
        )

    # --- taking -------------------------------------------------------------------------

    async def _take_until_stopped(self, settling: asyncio.Task[None]) -> None:
        taking = asyncio.create_task(self._take_all())
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

    async def _take_all(self) -> None:
        backoff = Backoff()
        wait = 0.0 if self.burst else WAIT_SECONDS
        while True:
            await self._until_others_may_run()
            free = self.concurrency - len(self._running)
            if self._ahead:
                self._begin(self._ahead.take(free))
                await self._slot_free_or_overdue()
                continue
            if free <= 0:
                self._slot.clear()
                await self._slot.wait()
                continue
            self._slot.clear()
            try:
                deliveries = await self._consumer.take(free + self._ahead.room, wait)
                if not deliveries and self.burst and await self._is_all_done():
                    return
            except BrokerError as e:
                await _wait_for_broker("take", e, backoff)
                continue
            backoff.reset()
            if not deliveries and self.burst:
                await self._slot_free(BURST_WAIT_SECONDS)
                continue
            if self._settler.held:
                deliveries = self._without_known(deliveries)
            deliveries, back = self._suspects.choose(deliveries, is_busy=bool(self._running))
            if back:
                self._give_back(back)
                # What is begun may kill the worker, and then count against these too.
                await self._settler.flush()
            self._begin(deliveries[:free])
            if len(deliveries) > free:
                self._ahead.put(deliveries[free:])
            # The first steps of what was begun come first: what kills the worker there shall not
            # make a delivery count of messages that are on their way to it.
            await asyncio.sleep(0)

    async def _until_others_may_run(self) -> None:
        """Wait while a suspect runs alone, or until what runs has ended to leave it alone."""
        while self._running and (patience := self._suspects.patience_seconds()) > 0:
            self._slot.clear()
            await self._slot_free(patience)
        self._suspects.waited()

    async def _slot_free(self, seconds: float) -> None:
        """Wait for a task to end since `_slot` was cleared, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._slot.wait()

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._settler.held.setdefault((delivery.queue, delivery.id), delivery)
            self._settler.add(Outcome(delivery, Action.RELEASE))

    async def _slot_free_or_overdue(self) -> None:
        """Wait for a slot as long as the messages ahead may; then give them back."""
        if len(self._running) >= self.concurrency:
            self._slot.clear()
            await self._slot_free(PATIENCE_SECONDS)
        self._give_back(self._ahead.overdue())

    async def _is_all_done(self) -> bool:
        await self._settler.flush()
        return not self._settler.held and await self._consumer.idle()

    def _begin(self, deliveries: list[Delivery]) -> None:
        with_rows: list[tuple[Job, Wanted]] = []
        for delivery in deliveries:
            key = (delivery.queue, delivery.id)
            if key in self._running:  # an entry that somebody has copied; it waits for its turn
                continue
            # A message may be back, to be retried, before the settling of its last run returns.
            self._settler.held[key] = delivery
            self._running[key] = None
            if delivery.deliveries > self._app.config.max_deliveries:
                self._give_up(key, delivery)
                continue
            try:
                job = self._jobs[key] = recognise(delivery, self._app)
                wanted = None if job.options.process else wanted_by(job)
            except Exception as e:  # noqa: BLE001 - whatever the bytes did is their own fault
                self._refuse(key, delivery, "the message cannot be run", e)
                continue
            if wanted is None:
                self._start(job)
            else:
                with_rows.append((job, wanted))
        if with_rows:
            loading = asyncio.create_task(self._load(with_rows))
            self._loading.add(loading)
            loading.add_done_callback(self._loading.discard)

    def _without_known(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those that neither run here already nor have an outcome that is still to be settled.

        The lease of the others ran out and they came back: their new delivery is kept instead.
        """
        fresh = []
        for delivery in deliveries:
            key = (delivery.queue, delivery.id)
            if key not in self._running:
                if delivery.deliveries == 1 or not self._settler.retake(delivery):
                    fresh.append(delivery)
                continue
            self._settler.held[key] = delivery
            if (job := self._jobs.get(key)) is not None:
                job.delivery = delivery
        return fresh

    def _give_up(self, key: Key, delivery: Delivery) -> None:
        """A message that its workers die with; whoever waits for its result is told."""
        reason = f"delivered {delivery.deliveries - 1} times to workers that died with it"
        try:
            job = self._jobs[key] = recognise(delivery, self._app)
        except MessageError:
            self._refuse(key, delivery, reason)
        else:
            error = TaskCrashed(f"{job.task.name}: {reason}")
            self._finish(key, outcomes.dead(self._app, job, error, reason), 0.0)

    def _refuse(
        self, key: Key, delivery: Delivery, reason: str, error: Exception | None = None
    ) -> None:
        info: dict[str, object] = {
            "reason": reason,
            "error": f"{type(error).__name__}: {error}" if error else reason,
            "task": task_name(delivery, self._app.config),
        }
        self._finish(key, outcomes.dead_delivery(delivery, info), 0.0)

    # --- running ------------------------------------------------------------------------

    async def _load(self, jobs: list[tuple[Job, Wanted]]) -> None:
        try:
            found = await fetch(self._app.adapters, [wanted for _, wanted in jobs])
        except asyncio.CancelledError:
            for job, _ in jobs:
                self._finish(job.key, outcomes.released(job), 0.0)
            raise
        for (job, wanted), fetched in zip(jobs, found, strict=True):
            self._start(job, wanted, fetched)

    def _start(
        self, job: Job, wanted: Wanted | None = None, fetched: Fetched | None = None
    ) -> None:
        assert self._loop is not None
        # Not asyncio.create_task, which costs as much again for finding the loop and a name.
        self._running[job.key] = self._loop.create_task(self._run(job, wanted, fetched))

    async def _run(self, job: Job, wanted: Wanted | None, fetched: Fetched | None) -> None:
        started = perf_counter()
        try:
            if job.options.process:
                verdict = await self._process_tasks().run(job)
            else:
                verdict = await self._runner.run(job, wanted, fetched)
        except asyncio.CancelledError as e:
            # Without a shutdown it was the task that cancelled itself.
            stopping = self._stop.is_set()
            verdict = outcomes.released(job) if stopping else outcomes.failed(self._app, job, e)
        except Exception as e:
            logger.exception("running a task failed outside of it", extra={"id": job.message.id})
            verdict = outcomes.failed(self._app, job, e)
        self._finish(job.key, verdict, started)

    def _process_tasks(self) -> ProcessTasks:
        if self._processes is None:
            from .process_tasks import ProcessTasks

            self._processes = ProcessTasks(self._app, self.modules, self.concurrency)
        return self._processes

    async def _close_processes(self) -> None:
        if self._processes is not None:
            await self._processes.close()

    def _finish(self, key: Key, verdict: Verdict, started: float) -> None:
        if self._running.pop(key, self) is self:
            return  # given up at shutdown before it ended
        job = self._jobs.pop(key, None)
        self._suspects.ended(key[1])
        verdict.outcome.delivery = self._settler.held[key]
        self._settler.add(verdict.outcome)
        self._slot.set()
        seconds = perf_counter() - started if started else 0.0
        self._ahead.note(seconds)
        if logger.isEnabledFor(verdict.level):
            logger.log(verdict.level, "task %s", verdict.word, extra=verdict.fields(job, seconds))

    # --- stopping -----------------------------------------------------------------------

    async def _wind_down(self) -> None:
        self._give_back(self._ahead.clear())
        if self._running:
            await self._wait_for_running()
        tasks = [task for task in (*self._running.values(), *self._loading) if task is not None]
        if tasks:
            for task in tasks:
                task.cancel()
            _, pending = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
            self.left_running = bool(pending)
        for key in list(self._running):  # code that does not end; its message need not wait for it
            outcome = Outcome(self._settler.held[key], Action.RELEASE)
            self._finish(key, Verdict(outcome, "released"), 0.0)
        try:
            async with asyncio.timeout(LAST_SETTLE_SECONDS):
                await self._settler.drain()
        except TimeoutError:
            logger.warning("stopped before the broker took the last outcomes")

    async def _wait_for_running(self) -> None:
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            async with asyncio.timeout(self.grace):
                while self._running and not hurry.done():
                    self._slot.clear()
                    slot = asyncio.create_task(self._slot.wait())
                    await asyncio.wait({slot, hurry}, return_when=asyncio.FIRST_COMPLETED)
                    slot.cancel()
        except TimeoutError:
            logger.warning("grace time is over", extra={"running": len(self._running)})
        finally:
            hurry.cancel()


def _worker_info(queues: tuple[str, ...], concurrency: int) -> WorkerInfo:
    host, pid = socket.gethostname(), os.getpid()
    worker_id = f"{host}-{pid}-{new_id()[-8:]}"
    return WorkerInfo(worker_id, host, pid, queues, concurrency, started_at=time())


async def _wait_for_broker(step: str, error: BrokerError, backoff: Backoff) -> None:
    logger.warning("broker unavailable, retrying", extra={"step": step, "error": str(error)})
    await asyncio.sleep(backoff.next())


async def _call_adapters(worker: Worker, hook: str) -> None:
    for adapter in current().adapters.with_hook(hook):
        try:
            answer: Any = getattr(adapter, hook)(worker)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            logger.exception("%s of an adapter failed", hook, extra={"adapter": adapter.name})
