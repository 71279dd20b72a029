"""What comes before and after a run: its checkpoint, the next call of its chain, its batch.

Owns the order: what follows is put, and the batch told, before the call's own outcome is settled.
A worker killed in between leaves the call to be run again, and whoever does finds these done.
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
from ..sending.following import NONE, NOTE_SECONDS, forget_put, next_call, put_once
from ..sending.outbox import Outbox
from ..sending.progress import CHECKPOINT
from ..wire.flow import NO_FLOW, Flow, decode, following_id
from ..wire.message import Message
from . import outcomes
from .batches import BatchReports
from .checkpoints import load_checkpoint
from .jobs import Job
from .outcomes import Verdict

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Followers:
    """Sees to what comes after the runs of one worker.

    What follows an atomic task is put by its own transaction.

    Args:
        broker: Of the worker's event loop.
        outbox: Sends what an atomic task's transaction put into it.
    """

    def __init__(self, config: Config, adapters: Adapters, broker: Broker, outbox: Outbox) -> None:
        self._config, self._adapters = config, adapters
        self._broker, self._outbox = broker, outbox
        self._reports = BatchReports(config, adapters, broker)
        self._tasks: set[asyncio.Task[None]] = set()

    async def see_to(self, job: Job, verdict: Verdict) -> Verdict:
        """Put what follows a call that has ended, and tell its batch; waits for the broker.

        Returns:
            What the call has come to: dead, if what follows cannot be put.
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
        """Send what follows an atomic task, which its transaction has put into the outbox."""
        run = job.atomic
        if run is not None and run.following is not None and verdict is run.verdict:
            database = run.transaction.database
            self._outbox.send_soon(run.adapter.name, database, (run.following,), lambda _: None)

    async def tell_batch(self, flow: Flow, verdict: Verdict) -> None:
        """Tell the batch that a call is part of, if it is, how the call ended."""
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

    async def load_checkpoint(self, job: Job) -> None:
        """Give a run what the one before has left; waits for the broker."""
        await until_reached(lambda: load_checkpoint(job, self._broker, self._config))

    def settled(self, job: Job) -> None:
        """The call is done and settled: only a run that has lost its lease may still come."""
        task = asyncio.get_running_loop().create_task(self._let_go(job))
        self._tasks.add(task)  # the loop holds it weakly
        task.add_done_callback(self._tasks.discard)

    async def _let_go(self, job: Job) -> None:
        message_id = job.message.id
        try:
            broker = remembering(self._broker)
            if job.flow.then and not job.options.atomic:
                queue = job.flow.then[0].queue
                await forget_put(broker, queue, following_id(message_id), NOTE_SECONDS)
            if job.has_checkpoint:
                await broker.set_value(job.delivery.queue, CHECKPOINT, message_id, None)
        except BrokerError as e:
            logger.warning("what a call has left in the broker stays there: %s", e)

    async def finish(self) -> None:
        """Wait for what is still to be written."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def flow_of(body: bytes, config: Config) -> Flow:
    """The flow of a message that is not run here; none if it cannot be read."""
    try:
        message = Message.decode(body, config.signing_key, config.max_payload_bytes)
        return decode(message.flow)
    except MessageError:
        return NO_FLOW


def remembering(broker: Broker) -> Remembering:
    """The broker, as one that keeps values; a dispatch that needs it has asked before.

    Raises:
        BrokerError: It does not, so that the call was sent by way of another.
    """
    if not isinstance(broker, Remembering):
        raise BrokerError(f"{broker.describe()} cannot keep what follows calls")
    return broker


async def until_reached(step: Callable[[], Awaitable[T]]) -> T:
    """Do something that may be repeated until the broker can be reached."""
    backoff = Backoff()
    while True:
        try:
            return await step()
        except BrokerUnavailable as e:
            logger.warning(
                "broker unavailable, retrying", extra={"step": "follow", "error": str(e)}
            )
            await asyncio.sleep(backoff.next())
