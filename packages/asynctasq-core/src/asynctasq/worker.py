"""The worker: takes messages, runs them, settles what became of them.

Owns the slots. Taking, running and settling go on at the same time: while tasks run, the outcomes of
those before them are settled in one round trip, and free slots are filled in another.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from . import outcomes
from .app import App, current
from .brokers import Action, Backoff, Consumer, ConsumerOptions, Delivery, Outcome, WorkerInfo
from .errors import BrokerError, InvalidMessage, MessageError, UnknownTask
from .execution import Runner, scoped_adapters, wanted_by
from .leases import LeaseKeeper
from .message import Message, new_id
from .outcomes import Job, Verdict
from .references import Fetched, Wanted, fetch
from .task import registry

if TYPE_CHECKING:
    from .process_tasks import ProcessTasks

logger = logging.getLogger(__name__)

#: From this delivery on, a message runs with no other such one beside it: if it is the one that
#: kills its workers, it reaches the limit alone.
SUSPECT_DELIVERIES = 3

#: How long `take` may wait for work, and in burst mode before looking whether all is done.
WAIT_SECONDS, BURST_WAIT_SECONDS = 5.0, 0.1

#: How long cancelled tasks, and the last settling, may take at shutdown.
CANCEL_SECONDS, LAST_SETTLE_SECONDS = 2.0, 5.0

#: How many outcomes one round trip settles.
SETTLE_BATCH = 500

_LEVELS = {
    "succeeded": logging.INFO,
    "skipped": logging.WARNING,
    "retried": logging.WARNING,
    "postponed": logging.WARNING,
    "released": logging.INFO,
    "dead": logging.ERROR,
}

Key = tuple[str, str]


class Worker:
    """One worker process's loop.

    Args:
        queues: In order of priority; by default `default` and those that registered tasks name.
        concurrency: How many tasks run at once.
        lease: Seconds after which others take over what a dead worker held.
        grace: Seconds that running tasks get to finish after `stop`.
        burst: End once the queues hold nothing waiting, delayed or running.
        modules: What child processes for `process=True` tasks import.
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
        self.queues = tuple(queues) if queues else declared_queues()
        self.concurrency = concurrency
        self.lease = lease
        self.grace = grace
        self.burst = burst
        self.modules = tuple(modules)
        host = socket.gethostname()
        self.info = WorkerInfo(
            id=f"{host}-{os.getpid()}-{new_id()[:8]}",
            host=host,
            pid=os.getpid(),
            queues=self.queues,
            concurrency=concurrency,
            started_at=time(),
        )
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._slot, self._settle, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._held: dict[Key, Delivery] = {}
        self._running: dict[Key, asyncio.Task[None] | None] = {}
        self._jobs: dict[Key, Job] = {}
        self._finished: list[Outcome] = []
        self._suspect: Key | None = None
        self._has_surplus_suspects = False
        self._backoff = Backoff()
        self._processes: ProcessTasks | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def id(self) -> str:
        """Unique per process start."""
        return self.info.id

    @property
    def running(self) -> int:
        """How many tasks are running."""
        return len(self._running)

    def stop(self) -> None:
        """Take nothing more and end once running tasks have; called again, do not wait for them.

        Call it on the worker's event loop, for example from a signal handler.
        """
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until nothing is left.

        A broker that cannot be reached, at the start or later, is waited for.
        """
        app = current()
        self._app = app
        self._consumer = await self._connect(app)
        if self._consumer is None:
            return
        threads = ThreadPoolExecutor(self.concurrency, "asynctasq")
        self._runner = Runner(app, threads, scoped_adapters(app))
        await self._call_adapters("worker_started")
        loop = asyncio.get_running_loop()
        keeper = LeaseKeeper(
            self._consumer,
            self.lease,
            lambda: list(self._held.values()),
            lambda lost: loop.call_soon_threadsafe(self._note_lost, lost),
        )
        keeper.start()
        settling = asyncio.create_task(self._settle_all())
        try:
            await self._take_until_stopped(settling)
            await self._wind_down()
        finally:
            settling.cancel()
            await asyncio.to_thread(keeper.stop)
            await self._consumer.stop()
            if self._processes is not None:
                await self._processes.close()
            threads.shutdown(wait=False, cancel_futures=True)
            await self._call_adapters("worker_stopped")

    # --- connecting ---------------------------------------------------------------------

    async def _connect(self, app: App) -> Consumer | None:
        """A started consumer; `None` if the worker was stopped while it waited for the broker."""
        options = ConsumerOptions(self.info, self.queues, self.lease)
        consumer = app.open_broker().consumer(options)
        while not self._stop.is_set():
            try:
                await consumer.start()
            except BrokerError as e:
                await self._wait_for_broker("start", e)
            else:
                self._backoff.reset()
                return consumer
        return None

    async def _wait_for_broker(self, what: str, error: BrokerError) -> None:
        delay = self._backoff.next()
        logger.warning("broker unavailable, retrying", extra={"step": what, "error": str(error)})
        await asyncio.sleep(delay)

    async def _call_adapters(self, hook: str) -> None:
        for adapter in self._app.adapters.with_hook(hook):
            try:
                answer: Any = getattr(adapter, hook)(self)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("%s of an adapter failed", hook, extra={"adapter": adapter.name})

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
        wait = BURST_WAIT_SECONDS if self.burst else WAIT_SECONDS
        while True:
            free = self.concurrency - len(self._running)
            if free <= 0:
                self._slot.clear()
                await self._slot.wait()
                continue
            try:
                deliveries = await self._consumer.take(free, wait)
                if not deliveries and self.burst and await self._is_all_done():
                    return
            except BrokerError as e:
                await self._wait_for_broker("take", e)
                continue
            self._backoff.reset()
            if deliveries:
                self._begin(deliveries)
            if self._has_surplus_suspects:  # they were given back; leave them to others for a while
                self._has_surplus_suspects = False
                await asyncio.sleep(0.2)

    async def _is_all_done(self) -> bool:
        return not self._held and await self._consumer.idle()

    def _begin(self, deliveries: list[Delivery]) -> None:
        with_rows: list[tuple[Job, Wanted]] = []
        for delivery in deliveries:
            key = (delivery.queue, delivery.id)
            if key in self._held:
                self._taken_again(key, delivery)
                continue
            self._held[key] = delivery
            self._running[key] = None
            if delivery.deliveries >= SUSPECT_DELIVERIES and not self._admit_suspect(key, delivery):
                continue
            try:
                job = recognise(delivery, self._app)
                wanted = None if job.options.process else wanted_by(job)
            except Exception as e:  # noqa: BLE001 - whatever the bytes did is their own fault
                self._finish(key, self._refused(delivery, e), 0.0)
                continue
            self._jobs[key] = job
            if wanted is None:
                self._start(key, job)
            else:
                with_rows.append((job, wanted))
        if with_rows:
            loading = asyncio.create_task(self._load(with_rows))
            self._background.add(loading)
            loading.add_done_callback(self._background.discard)

    def _taken_again(self, key: Key, delivery: Delivery) -> None:
        """The lease ran out, the message came back here, and it is still running: keep it."""
        self._held[key] = delivery
        if (job := self._jobs.get(key)) is not None:
            job.delivery = delivery

    def _admit_suspect(self, key: Key, delivery: Delivery) -> bool:
        if delivery.deliveries > self._app.config.max_deliveries:
            reason = f"delivered {delivery.deliveries - 1} times to workers that died with it"
            verdict = outcomes.dead_delivery(
                delivery, {"reason": reason, "error": reason, "task": self._task_name(delivery)}
            )
            self._finish(key, verdict, 0.0)
            return False
        if self._suspect is not None:
            self._has_surplus_suspects = True
            outcome = Outcome(delivery, Action.RELEASE)
            self._finish(key, Verdict(outcome, "released", "another suspect is running"), 0.0)
            return False
        self._suspect = key
        return True

    def _refused(self, delivery: Delivery, error: Exception) -> Verdict:
        text = f"{type(error).__name__}: {error}"
        return outcomes.dead_delivery(
            delivery,
            {"reason": "the message cannot be run", "error": text, "task": self._task_name(delivery)},
        )

    def _task_name(self, delivery: Delivery) -> str:
        """The task's name for a message that is not run, if the bytes may be read and say one."""
        try:
            return Message.decode(delivery.body, self._app.config.signing_key).task
        except MessageError:
            return ""

    # --- running ------------------------------------------------------------------------

    async def _load(self, jobs: list[tuple[Job, Wanted]]) -> None:
        try:
            found = await fetch(self._app.adapters, [wanted for _, wanted in jobs])
        except asyncio.CancelledError:
            for job, _ in jobs:
                self._finish(_key(job), outcomes.released(job), 0.0)
            raise
        for (job, wanted), fetched in zip(jobs, found, strict=True):
            self._start(_key(job), job, wanted, fetched)

    def _start(
        self, key: Key, job: Job, wanted: Wanted | None = None, fetched: Fetched | None = None
    ) -> None:
        self._running[key] = asyncio.create_task(self._run(key, job, wanted, fetched))

    async def _run(
        self, key: Key, job: Job, wanted: Wanted | None, fetched: Fetched | None
    ) -> None:
        started = perf_counter()
        try:
            if job.options.process:
                verdict = await self._process_tasks().run(job)
            else:
                verdict = await self._runner.run(job, wanted, fetched)
        except asyncio.CancelledError:
            verdict = outcomes.released(job)
        self._finish(key, verdict, started)

    def _process_tasks(self) -> ProcessTasks:
        if self._processes is None:
            from .process_tasks import ProcessTasks

            self._processes = ProcessTasks(self._app, self.modules, self.concurrency)
        return self._processes

    def _finish(self, key: Key, verdict: Verdict, started: float) -> None:
        if self._running.pop(key, self) is self:
            return  # given up at shutdown before it ended
        job = self._jobs.pop(key, None)
        if self._suspect == key:
            self._suspect = None
        verdict.outcome.delivery = self._held[key]
        self._finished.append(verdict.outcome)
        self._settle.set()
        self._slot.set()
        level = _LEVELS[verdict.word]
        if logger.isEnabledFor(level):
            _log(level, verdict, job, perf_counter() - started if started else 0.0)

    # --- settling -----------------------------------------------------------------------

    async def _settle_all(self) -> None:
        backoff = Backoff()
        while True:
            await self._settle.wait()
            self._settle.clear()
            while self._finished:
                batch = self._finished[:SETTLE_BATCH]
                del self._finished[:SETTLE_BATCH]
                await self._apply(batch, backoff)
            self._settled.set()

    async def _apply(self, batch: list[Outcome], backoff: Backoff) -> None:
        while True:
            try:
                lost = await self._consumer.settle(batch)
            except BrokerError as e:
                logger.warning("cannot settle, retrying", extra={"error": str(e)})
                await asyncio.sleep(backoff.next())
            else:
                break
        backoff.reset()
        for outcome in batch:
            self._held.pop((outcome.delivery.queue, outcome.delivery.id), None)
        if lost:
            self._note_lost([outcome.delivery for outcome in lost])

    def _note_lost(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            logger.warning("lease lost", extra={"id": delivery.id, "queue": delivery.queue})

    # --- stopping -----------------------------------------------------------------------

    async def _wind_down(self) -> None:
        if self._running:
            await self._wait_for_running(self.grace)
        tasks = [t for t in [*self._running.values(), *self._background] if t is not None]
        if tasks:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        for key in list(self._running):  # code that does not end; its message need not wait for it
            self._finish(key, Verdict(Outcome(self._held[key], Action.RELEASE), "released"), 0.0)
        try:
            async with asyncio.timeout(LAST_SETTLE_SECONDS):
                while self._held:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            logger.warning("stopped before the broker took the last outcomes")

    async def _wait_for_running(self, grace: float) -> None:
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            async with asyncio.timeout(grace):
                while self._running and not hurry.done():
                    self._slot.clear()
                    slot = asyncio.create_task(self._slot.wait())
                    await asyncio.wait({slot, hurry}, return_when=asyncio.FIRST_COMPLETED)
                    slot.cancel()
        except TimeoutError:
            logger.warning("grace time is over", extra={"running": len(self._running)})
        finally:
            hurry.cancel()


def recognise(delivery: Delivery, app: App) -> Job:
    """The registered task that a delivery calls.

    Raises:
        MessageError: The bytes are no message that may be run here.
    """
    config = app.config
    message = Message.decode(delivery.body, config.signing_key, config.max_payload_bytes)
    if message.id != delivery.id:
        raise InvalidMessage(f"the message says that its id is {message.id[:64]!r}")
    task = registry.get(message.task)
    if task is None:
        raise UnknownTask(
            f"no task {message.task[:200]!r} among those registered by the worker's modules"
        )
    return Job(delivery, message, task, outcomes.options_of(task, message, config.task_defaults))


def declared_queues() -> tuple[str, ...]:
    """`default`, and the queues that registered tasks name, in alphabetical order."""
    named = {t.declared_queue or current().config.task_defaults.get("queue", "default")
             for t in registry.values()}
    return ("default", *sorted(named - {"default"}))


def _key(job: Job) -> Key:
    return (job.delivery.queue, job.delivery.id)


def _log(level: int, verdict: Verdict, job: Job | None, seconds: float) -> None:
    delivery = verdict.outcome.delivery
    fields: dict[str, Any] = {
        "task": job.message.task if job is not None else "",
        "id": delivery.id,
        "queue": delivery.queue,
        "attempt": job.message.attempt if job is not None else 0,
        "seconds": round(seconds, 6),
    }
    if verdict.error:
        fields["error"] = verdict.error
    if verdict.outcome.action is Action.RETRY:
        fields["delay_seconds"] = round(verdict.outcome.delay, 3)
    logger.log(level, "task %s", verdict.word, extra=fields)
