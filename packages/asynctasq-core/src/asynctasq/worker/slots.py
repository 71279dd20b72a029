"""The slots of a worker: what runs in them, from its delivery to its outcome.

Owns the rule that a delivery occupies its slot until exactly one outcome of it has gone to be
settled, whatever the message's bytes, its rows or its task do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

from ..adapters.fetching import Fetched, Wanted, fetch
from ..app import App
from ..brokers import Action, Delivery, Outcome
from ..errors import MessageError, TaskCrashed
from . import outcomes
from .execution import Runner, wanted_by
from .jobs import Job, Key, recognise, task_name
from .outcomes import Verdict
from .poison_isolation import Suspects
from .prefetching import Ahead
from .settling import Settler

if TYPE_CHECKING:
    from .process_tasks import ProcessTasks

logger = logging.getLogger(__name__)

#: How long cancelled tasks may take at shutdown.
CANCEL_SECONDS = 2.0


class Slots:
    """What one worker runs.

    Args:
        runner: Runs calls on the event loop and in threads.
        new_processes: Makes what runs `process=True` tasks, once there is one.
        ahead: Learns how long tasks take.
        suspects: Learns what has ended.
        is_stopping: Whether a cancelled task was cancelled by the worker's shutdown.
    """

    def __init__(
        self,
        app: App,
        settler: Settler,
        runner: Runner,
        new_processes: Callable[[], ProcessTasks],
        ahead: Ahead,
        suspects: Suspects,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._app = app
        self._settler = settler
        self._runner = runner
        self._new_processes = new_processes
        self._ahead = ahead
        self._suspects = suspects
        self._is_stopping = is_stopping
        self._loop = asyncio.get_running_loop()
        self._running: dict[Key, asyncio.Task[None] | None] = {}
        self._jobs: dict[Key, Job] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._processes: ProcessTasks | None = None
        self._told = app.adapters.with_hook("run_ended")

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, delivery: Delivery) -> bool:
        return (delivery.queue, delivery.id) in self._running

    # --- waiting ------------------------------------------------------------------------

    def watch(self) -> None:
        """Let `until_one_ends` wait for what ends from here on."""
        self._ended.clear()

    async def until_one_ends(self, seconds: float | None = None) -> None:
        """Wait for a run to end since `watch`, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def until_empty(self, hurry: asyncio.Event) -> None:
        """Wait until nothing runs any more, or there is no time for that."""
        hurried = asyncio.create_task(hurry.wait())
        try:
            while self._running and not hurried.done():
                self.watch()
                ended = asyncio.create_task(self._ended.wait())
                await asyncio.wait({ended, hurried}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
        finally:
            hurried.cancel()

    # --- beginning ----------------------------------------------------------------------

    def begin(self, deliveries: Sequence[Delivery]) -> None:
        """Run what these deliveries call; what cannot be run goes to the dead letters."""
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

    def without_known(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that neither run here already nor have an outcome that is still to be settled.

        The lease of the others ran out and they came back: their new delivery is kept instead.
        """
        fresh = []
        for delivery in deliveries:
            if delivery not in self:
                if delivery.deliveries == 1 or not self._settler.retake(delivery):
                    fresh.append(delivery)
                continue
            key = (delivery.queue, delivery.id)
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
            self._finish(key, outcomes.dead(self._app, job, error, reason))

    def _refuse(
        self, key: Key, delivery: Delivery, reason: str, error: Exception | None = None
    ) -> None:
        info: dict[str, object] = {
            "reason": reason,
            "error": f"{type(error).__name__}: {error}" if error else reason,
            "task": task_name(delivery, self._app.config),
        }
        self._finish(key, outcomes.dead_delivery(delivery, info))

    # --- running ------------------------------------------------------------------------

    async def _load(self, jobs: list[tuple[Job, Wanted]]) -> None:
        try:
            found = await fetch(self._app.adapters, [wanted for _, wanted in jobs])
        except asyncio.CancelledError:
            for job, _ in jobs:
                self._finish(job.key, outcomes.released(job))
            raise
        except Exception as e:
            logger.exception("fetching rows failed outside of any adapter")
            for job, _ in jobs:
                self._finish(job.key, outcomes.failed(self._app, job, e))
            return
        for (job, wanted), fetched in zip(jobs, found, strict=True):
            self._start(job, wanted, fetched)

    def _start(
        self, job: Job, wanted: Wanted | None = None, fetched: Fetched | None = None
    ) -> None:
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
            stopping = self._is_stopping()
            verdict = outcomes.released(job) if stopping else outcomes.failed(self._app, job, e)
        except Exception as e:
            logger.exception("running a task failed outside of it", extra={"id": job.message.id})
            verdict = outcomes.failed(self._app, job, e)
        seconds = perf_counter() - started
        try:
            if self._told:
                await self._tell(job, verdict)
        finally:
            self._finish(job.key, verdict, seconds)

    async def _tell(self, job: Job, verdict: Verdict) -> None:
        """Let adapters know what has become of a run; what they do with it changes nothing."""
        for adapter in self._told:
            try:
                answer = adapter.run_ended(  # type: ignore[misc]
                    job.message, verdict.word, verdict.value, verdict.exception
                )
                if answer is not None:
                    await answer
            except Exception:
                logger.exception("run_ended of an adapter failed", extra={"adapter": adapter.name})

    def _process_tasks(self) -> ProcessTasks:
        if self._processes is None:
            self._processes = self._new_processes()
        return self._processes

    def _finish(self, key: Key, verdict: Verdict, seconds: float | None = None) -> None:
        """Settle; `seconds` is the time the run took, if there was one."""
        if self._running.pop(key, self) is self:
            return  # given up at shutdown before it ended
        job = self._jobs.pop(key, None)
        self._suspects.ended(key[1])
        verdict.outcome.delivery = self._settler.held[key]
        self._settler.add(verdict.outcome)
        self._ended.set()
        if seconds is not None:
            self._ahead.note(seconds)
        if logger.isEnabledFor(verdict.level):
            fields = verdict.fields(job, seconds or 0.0)
            logger.log(verdict.level, "task %s", verdict.word, extra=fields)

    # --- ending -------------------------------------------------------------------------

    async def cancel(self) -> bool:
        """Cancel what runs and release it; whether code that does not end was left running."""
        tasks = [task for task in (*self._running.values(), *self._loading) if task is not None]
        left_running = False
        if tasks:
            for task in tasks:
                task.cancel()
            _, pending = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
            left_running = bool(pending)
        for key in list(self._running):  # its message need not wait for code that does not end
            outcome = Outcome(self._settler.held[key], Action.RELEASE)
            self._finish(key, Verdict(outcome, "released"))
        return left_running

    async def close(self) -> None:
        """End the processes."""
        if self._processes is not None:
            await self._processes.close()
