"""What comes before and after a run: its checkpoint, the next call of its chain, its batch.

Owns the order: the next call is put and the batch told before the call's own outcome is settled.
If a worker is killed in between, the call runs again, and that run finds these steps done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..adapters.plugins import Adapters
from ..brokers import Backoff, Broker, Remembering
from ..config import Config
from ..errors import BrokerError, BrokerUnavailable, MessageError, PayloadTooLarge
from ..sending.batch_reports import BatchReports
from ..sending.following import NONE, NOTE_SECONDS, forget_put, next_call, put_once
from ..sending.outbox import Outbox
from ..sending.progress import CHECKPOINT, keep_progress
from ..wire.flow import NO_FLOW, Flow, decode, following_id
from ..wire.message import Message
from . import outcomes
from .checkpoints import load_checkpoint
from .jobs import Job
from .outcomes import Verdict

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Followers:
    """Handles what comes after the runs of one worker.

    An atomic task's transaction puts the call that follows itself.

    Args:
        broker: The broker of the worker's event loop.
        outbox: Sends what an atomic task's transaction put into it.
    """

    def __init__(self, config: Config, adapters: Adapters, broker: Broker, outbox: Outbox) -> None:
        self._config, self._adapters = config, adapters
        self._broker, self._outbox = broker, outbox
        self._reports = BatchReports(config, adapters, broker)
        self._tasks: set[asyncio.Task[None]] = set()

    async def see_to(self, job: Job, verdict: Verdict) -> Verdict:
        """Put the next call after one that ended, and tell its batch; waits for the broker.

        Returns:
            The call's verdict: dead if the next call cannot be put.
        """
        if job.options.atomic:
            self._send_what_is_kept(job, verdict)
        elif verdict.word in ("succeeded", "skipped") and job.flow.then:
            try:
                await self._put_next(job, verdict)
            except (PayloadTooLarge, BrokerError, MessageError) as e:
                reason = "what follows it cannot be put"
                verdict = outcomes.dead(self._config, self._adapters, job, e, reason)
        await self.tell_batch(job.flow, verdict)
        return verdict

    def _send_what_is_kept(self, job: Job, verdict: Verdict) -> None:
        """Send the call after an atomic task, which the task's transaction put into the outbox."""
        run = job.atomic
        if run is not None and run.following is not None and verdict is run.verdict:
            database = run.transaction.database
            self._outbox.send_soon(run.adapter.name, database, (run.following,), lambda _: None)

    async def tell_batch(self, flow: Flow, verdict: Verdict) -> None:
        """Tell the call's batch, if it is part of one, how the call ended."""
        if flow.place is None:
            return
        is_done = verdict.word in ("succeeded", "skipped")
        if not is_done or not flow.then:
            await self._reports.report(flow.place, is_done=is_done, result=verdict.handed_on)

    async def _put_next(self, job: Job, verdict: Verdict) -> None:
        config = self._config
        result = NONE if verdict.handed_on is None else verdict.handed_on
        outgoing = next_call(
            job.flow,
            job.message,
            result,
            self._adapters,
            config.signing_key,
            config.max_payload_bytes,
        )
        broker = remembering(self._broker)
        await until_reached(lambda: put_once(broker, outgoing))
        job.has_put = True

    async def load_checkpoint(self, job: Job) -> None:
        """Give a run the checkpoint of the previous run; waits for the broker."""
        await until_reached(lambda: load_checkpoint(job, self._broker, self._config))

    def settled(self, job: Job, *, is_done: bool) -> None:
        """Tell who watches a call that it has ended, and if it is done, clean up after it.

        From here on only a run that has lost its lease can still look for what it left.
        """
        task = asyncio.get_running_loop().create_task(self._let_go(job, is_done))
        self._tasks.add(task)  # the event loop keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _let_go(self, job: Job, is_done: bool) -> None:
        message_id = job.message.id
        try:
            broker = remembering(self._broker)
            if job.progress is not None:
                await keep_progress(broker, job.key, job.progress.encode(is_last=True))
            if not is_done:
                return
            if job.has_put:
                queue = job.flow.then[0].queue
                await forget_put(broker, queue, following_id(message_id), NOTE_SECONDS)
            if job.has_checkpoint:
                await broker.set_value(job.delivery.queue, CHECKPOINT, message_id, None)
        except BrokerError as e:
            logger.warning("what a call has left in the broker stays there: %s", e)

    async def finish(self) -> None:
        """Wait for writes that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def flow_of(body: bytes, config: Config) -> Flow:
    """The flow of a message that is not run here; `NO_FLOW` if it cannot be read."""
    try:
        message = Message.decode(body, config.signing_key, config.max_payload_bytes)
        return decode(message.flow)
    except MessageError:
        return NO_FLOW


def remembering(broker: Broker) -> Remembering:
    """The broker, typed as one that keeps values; dispatch has checked this already.

    Raises:
        BrokerError: It keeps none, so the call must have been sent through another broker.
    """
    if not isinstance(broker, Remembering):
        raise BrokerError(f"{broker.describe()} cannot keep what follows calls")
    return broker


async def until_reached(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat an idempotent step until the broker can be reached."""
    backoff = Backoff()
    while True:
        try:
            return await step()
        except BrokerUnavailable as e:
            logger.warning(
                "broker unavailable, retrying", extra={"step": "follow", "error": str(e)}
            )
            await asyncio.sleep(backoff.next())
