"""The slots of a worker: what runs in them, from delivery to outcome.

Owns two rules. A delivery keeps its slot until exactly one outcome for it has been handed over for
settling, whatever the message's bytes, its rows or its task do. And no message goes back to its
queue before the code that ran it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..adapters.fetching import Fetched, Wanted
from ..brokers import Action, Delivery, Outcome
from ..errors import BrokerError, MessageError, NotYetKnown, TaskCrashed, TaskTimeout
from ..events import RunStarted
from ..events import wanted as listened_to
from ..wire.flow import NO_FLOW, Flow
from . import outcomes
from .atomic import verdict_if_done_anywhere
from .checkpoints import may_have_checkpoint
from .execution import Runner, wanted_by
from .following import Followers, flow_of
from .jobs import Job, Key, recognise
from .not_yet_known import NotYetKnownTasks
from .outcomes import Verdict
from .pausing import holding
from .prefetching import Prefetched
from .rows import Rows
from .settling import Settler
from .telling import tell_ended, tell_started
from .threads import are_alive, outlast
from .waiting_parents import WaitingParents

if TYPE_CHECKING:
    from .process_tasks import ProcessTasks

logger = logging.getLogger(__name__)

#: Seconds that cancelled tasks may take to end at shutdown.
CANCEL_SECONDS = 2.0


class Slots:
    """What one worker runs.

    Args:
        runner: Runs calls on the event loop and in threads.
        new_processes: Makes the runner of `process=True` tasks when the first one comes.
        prefetched: Learns how fast slots become free.
        parents: Told of runs that wait for other calls.
        unknown: Told of messages postponed because nobody here knows their task.
        followers: Handles what comes after calls.
        is_stopping: Whether the worker is shutting down, which cancels tasks.
    """

    def __init__(
        self,
        settler: Settler,
        runner: Runner,
        new_processes: Callable[[], ProcessTasks],
        prefetched: Prefetched,
        parents: WaitingParents,
        unknown: NotYetKnownTasks,
        followers: Followers,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._config, self._adapters = runner.config, runner.adapters
        self._settler = settler
        self._runner = runner
        self._new_processes = new_processes
        self._prefetched = prefetched
        self._parents = parents
        self._unknown = unknown
        self._followers = followers
        self._unrecognised: set[Key] = set()
        self._is_stopping = is_stopping
        self._loop = asyncio.get_running_loop()
        self._running: dict[Key, asyncio.Task[None] | None] = {}
        self._jobs: dict[Key, Job] = {}
        self._rows = Rows(self._adapters, self._start, self._fail_late)
        self._ended = asyncio.Event()
        self._processes: ProcessTasks | None = None
        self._told = self._adapters.with_hook("run_ended")

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, delivery: Delivery) -> bool:
        return (delivery.queue, delivery.id) in self._running

    def fields_of(self, task: asyncio.Task[Any] | None) -> dict[str, str]:
        """Log fields of the run that is this asyncio task; may be called in any thread."""
        for key, running in tuple(self._running.items()):
            if task is not None and running is task and (job := self._jobs.get(key)) is not None:
                return {"task": job.message.task, "id": job.message.id}
        return {}

    def keys(self) -> frozenset[Key]:
        """The messages that are running."""
        return frozenset(self._running)

    # --- waiting ------------------------------------------------------------------------

    def watch(self) -> None:
        """Make `until_one_ends` wait for runs that end from now on."""
        self._ended.clear()

    async def until_one_ends(self, seconds: float | None = None) -> None:
        """Wait until a run has ended since `watch`, for at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def until_empty(self) -> None:
        """Wait until nothing runs any more."""
        while self._running:
            self.watch()
            await self._ended.wait()

    # --- beginning ----------------------------------------------------------------------

    def begin(self, deliveries: Sequence[Delivery]) -> None:
        """Run the calls in these deliveries; those that cannot run go to the dead letters."""
        with_rows: list[tuple[Job, Wanted]] = []
        now = perf_counter()
        for delivery in deliveries:
            key = (delivery.queue, delivery.id)
            if key in self._running:  # somebody copied the entry; the copy waits its turn
                continue
            # A retried message may be back before the settling of its last run returns.
            self._settler.held[key] = delivery
            if delivery.pauses is not None and self._parks(delivery):
                continue
            self._running[key] = None
            if delivery.deliveries > self._config.max_deliveries:
                self._give_up(key, delivery)
                continue
            try:
                job = self._jobs[key] = recognise(delivery, self._config)
                wanted = None if job.options.process else wanted_by(job)
            except Exception as e:  # noqa: BLE001 - whatever the bytes did is their own fault
                self._end_unbegun(key, outcomes.not_recognised(self._config, delivery, e))
                continue
            job.slot_since = now
            job.waiting = self._parents
            job.is_stopping = self._is_stopping
            if job.options.timeout is not None:
                job.deadline = self._loop.time() + job.options.timeout
            if RunStarted in listened_to:
                tell_started(job)
            if wanted is None:
                self._start(job)
            else:
                with_rows.append((job, wanted))
        if with_rows:
            self._rows.fetch(with_rows)

    def _parks(self, delivery: Delivery) -> bool:
        """Park the call if a pause holds it back, and return whether one does."""
        name = holding(delivery, self._config, self._adapters)
        if name is None:
            return False
        logger.debug("call parked", extra={"id": delivery.id, "queue": delivery.queue})
        self._settler.add(Outcome(delivery, Action.PARK, pause=name))
        self._ended.set()  # it needs no slot
        return True

    def without_known(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """The deliveries that neither run here already nor have an outcome waiting to be settled.

        The others came back because their lease expired: their new delivery replaces the old one.
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
        """Give up a message whose workers keep dying, and tell whoever waits for its result."""
        reason = f"delivered {delivery.deliveries - 1} times to workers that died with it"
        try:
            job = self._jobs[key] = recognise(delivery, self._config)
        except MessageError:
            verdict = outcomes.refused(self._config, delivery, reason)
        else:
            error = TaskCrashed(f"{job.task.name}: {reason}")
            verdict = outcomes.dead(self._config, self._adapters, job, error, reason)
            if job.options.atomic:
                work = self._conclude_unless_done(job, verdict, None)
                self._running[key] = self._loop.create_task(work)
                return
        self._end_unbegun(key, verdict)

    # --- running ------------------------------------------------------------------------

    def _start(
        self, job: Job, wanted: Wanted | None = None, fetched: Fetched | None = None
    ) -> None:
        # `asyncio.create_task` would cost twice as much: it looks up the loop and makes a name.
        self._running[job.key] = self._loop.create_task(self._run(job, wanted, fetched))

    def _fail_late(self, job: Job) -> None:
        """End a job whose rows did not come before its deadline."""
        timeout = job.options.timeout
        error = TaskTimeout(f"{job.task.name}: its rows were not there within {timeout} s")
        verdict = outcomes.failed(self._config, self._adapters, job, error)
        conclude = self._conclude_unless_done if job.options.atomic else self._conclude
        self._running[job.key] = self._loop.create_task(conclude(job, verdict, timeout))

    async def _run(self, job: Job, wanted: Wanted | None, fetched: Fetched | None) -> None:
        started = perf_counter()
        try:
            if not job.options.process and may_have_checkpoint(job):
                await self._followers.load_checkpoint(job)
            if job.options.process:
                verdict = await self._process_tasks().run(job)
            else:
                verdict = await self._runner.run(job, wanted, fetched)
        except asyncio.CancelledError as e:
            verdict = await self._cancelled(job, e)
        except Exception as e:
            logger.exception("running a task failed outside of it", extra={"id": job.message.id})
            verdict = outcomes.failed(self._config, self._adapters, job, e)
        if job.is_cancelled and verdict.outcome.action is not Action.DONE:
            verdict = await self._ended_by_call(job)
        if job.options.process and verdict.word == "released":
            verdict = await self._released_process(job)
        if job.threads and (verdict.outcome.action in _RUN_AGAIN or job.is_cancelled):
            await outlast(job)
        await self._conclude(job, verdict, perf_counter() - started)

    def _end_unbegun(self, key: Key, verdict: Verdict) -> None:
        """End a delivery that was not run; adapters hear of it if its task is registered here."""
        job = self._jobs.get(key)
        if job is None or not self._told:
            self._finish(key, verdict)
        else:
            self._running[key] = self._loop.create_task(self._conclude(job, verdict, None))

    async def _conclude(self, job: Job, verdict: Verdict, seconds: float | None) -> None:
        try:
            if self._told:
                await self._tell(job, verdict)
        finally:
            self._finish(job.key, verdict, seconds)

    async def _conclude_unless_done(
        self, job: Job, verdict: Verdict, seconds: float | None
    ) -> None:
        """End an atomic call that does not run now, unless an earlier run of it has committed."""
        try:
            known = await verdict_if_done_anywhere(
                self._config, self._adapters, job, self._runner.joining
            )
            verdict = known or verdict
        except asyncio.CancelledError as e:
            verdict = await self._cancelled(job, e)
        await self._conclude(job, verdict, seconds)

    async def _tell(self, job: Job, verdict: Verdict) -> None:
        """Tell adapters how a run ended; nothing they do changes the verdict."""
        why_dead = verdict.exception if verdict.word == "dead" else None
        for adapter in self._told:
            try:
                answer = adapter.run_ended(  # type: ignore[misc]
                    job.message, verdict.word, verdict.value, why_dead
                )
                if answer is not None:
                    await answer
            except Exception:
                logger.exception("run_ended of an adapter failed", extra={"adapter": adapter.name})

    async def _cancelled(self, job: Job, error: asyncio.CancelledError) -> Verdict:
        """The verdict on a run that was cancelled by the worker's shutdown, or by itself."""
        if not self._is_stopping():
            # Code that cancels every task of the loop may reach this run before the worker.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self._is_stopping() or job.is_cancelled:
            return outcomes.released(job, self._config)
        return outcomes.failed(self._config, self._adapters, job, error)

    async def _released_process(self, job: Job) -> Verdict:
        """The verdict on an interrupted run in a process, which may have left a checkpoint."""
        with suppress(BrokerError, asyncio.CancelledError):
            await self._followers.load_checkpoint(job)
        return outcomes.released(job, self._config)

    async def _ended_by_call(self, job: Job) -> Verdict:
        try:
            return await self._runner.cancelled(job)
        except asyncio.CancelledError:  # the worker shut down while a hook of the task ran
            return outcomes.cancelled(self._config, job)

    def _process_tasks(self) -> ProcessTasks:
        if self._processes is None:
            self._processes = self._new_processes()
            if self._is_stopping():
                self._processes.tell_stopping()
        return self._processes

    def _finish(self, key: Key, verdict: Verdict, seconds: float | None = None) -> None:
        """Free the slot and settle; `seconds` is how long the run took, if there was one."""
        job = self._jobs.get(key)
        if verdict.outcome.action in _ENDS and self._is_followed(key, job, verdict, seconds):
            return
        del self._running[key]
        self._jobs.pop(key, None)
        settled = None
        if job is not None and verdict.outcome.action in _ENDS:
            is_done = verdict.outcome.action is Action.DONE
            if job.has_put or job.has_checkpoint or job.progress is not None:
                settled = partial(self._followers.settled, job, is_done=is_done)
        if verdict.is_settled:
            self._let_go(key, verdict, settled)
        else:
            verdict.outcome.delivery = self._settler.held[key]
            self._settler.add(verdict.outcome, settled)
        self._ended.set()
        if job is not None and seconds is not None:
            self._prefetched.note(perf_counter() - job.slot_since)
        if verdict.word == "postponed" and isinstance(verdict.exception, NotYetKnown):
            self._unknown.note(verdict.outcome.delivery, verdict.exception)
        if listened_to:
            tell_ended(verdict, job, self._config)
        if logger.isEnabledFor(verdict.level):
            fields = verdict.fields(job, seconds or 0.0)
            error = None if verdict.is_expected else verdict.exception
            logger.log(verdict.level, "task %s", verdict.word, extra=fields, exc_info=error)

    def _let_go(self, key: Key, verdict: Verdict, settled: Callable[[], None] | None) -> None:
        """Drop a delivery that the task's own transaction has settled."""
        self._settler.forget(key)
        if settled is not None:
            settled()
        if (joining := self._runner.joining) is not None:
            joining.tell_settled(verdict.outcome)

    def is_settling(self, delivery: Delivery) -> bool:
        """Whether its lease may be gone because the task's own transaction is settling it."""
        job = self._jobs.get((delivery.queue, delivery.id))
        return job is not None and job.atomic is not None and job.atomic.is_settling

    def _is_followed(
        self, key: Key, job: Job | None, verdict: Verdict, seconds: float | None
    ) -> bool:
        """Start handling what follows a call that has ended; `False` if nothing follows."""
        if job is None:  # even a message that cannot run here may be part of a batch
            flow = flow_of(self._settler.held[key].body, self._config)
            if flow.place is None or key in self._unrecognised:
                self._unrecognised.discard(key)
                return False
            self._unrecognised.add(key)
        elif job.flow is NO_FLOW or job.has_followed:
            return False
        else:
            flow, job.has_followed = job.flow, True
        self._running[key] = self._loop.create_task(self._follow(key, flow, job, verdict, seconds))
        return True

    async def _follow(
        self, key: Key, flow: Flow, job: Job | None, verdict: Verdict, seconds: float | None
    ) -> None:
        try:
            if job is not None:
                verdict = await self._followers.see_to(job, verdict)
            else:
                await self._followers.tell_batch(flow, verdict)
        except asyncio.CancelledError:  # shutdown; the next run finds the steps that were done
            verdict = _released(self._settler.held[key])
        except Exception as e:
            logger.exception("what follows a call could not be seen to", extra={"id": key[1]})
            if job is not None:
                reason = "what follows it cannot be put"
                verdict = outcomes.dead(self._config, self._adapters, job, e, reason)
        self._finish(key, verdict, seconds)

    # --- ending -------------------------------------------------------------------------

    def cancel_call(self, key: Key) -> None:
        """End a run for good because its call was cancelled. What it has done so far stands."""
        job = self._jobs.get(key)
        if job is None or job.is_cancelled or job.has_followed:
            return
        job.is_cancelled = True
        running = self._running[key]
        if running is not None:
            running.add_done_callback(lambda ended: self._note_unbegun(job, ended))
            running.cancel()
        elif self._rows.drop(key):
            self._end_unbegun(key, outcomes.cancelled(self._config, job))

    def _note_unbegun(self, job: Job, ended: asyncio.Task[None]) -> None:
        """End a run that was cancelled before its first step, which cannot end itself."""
        if self._running.get(job.key) is ended:
            self._end_unbegun(job.key, outcomes.cancelled(self._config, job))

    def tell_stopping(self) -> None:
        """Tell child processes that the worker is stopping."""
        if self._processes is not None:
            self._processes.tell_stopping()

    async def cancel(self) -> None:
        """Cancel what runs and release what ended; runs that ignore it stay in their slots."""
        tasks = {task for task in self._running.values() if task is not None}
        for task in tasks:
            task.cancel()
        tasks |= self._rows.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        free = [job.key for job in self._rows.let_go()]
        for key, running in self._running.items():
            if running is not None and running.done():  # cancelled before its first step
                free.append(key)
        for key in free:
            self._finish(key, _released(self._settler.held[key]))

    def alive(self) -> list[Delivery]:
        """What still runs although the event loop is closed; called in another thread."""
        held = self._settler.held
        return [held[key] for key, job in tuple(self._jobs.items()) if are_alive(job)]

    def kill_processes(self) -> None:
        """Kill all child processes and whatever they started; may be called in any thread."""
        if self._processes is not None:
            self._processes.kill()

    async def close(self) -> None:
        """End the child processes."""
        if self._processes is not None:
            await self._processes.close()


def _released(delivery: Delivery) -> Verdict:
    return Verdict(Outcome(delivery, Action.RELEASE), "released")


#: After these a message does not run again.
_ENDS = frozenset({Action.DONE, Action.DEAD})

#: After these anyone may run the message, at once or later.
_RUN_AGAIN = frozenset({Action.RETRY, Action.RELEASE, Action.POSTPONE})
