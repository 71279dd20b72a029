"""Checkpoints: what a long run leaves for the next run of its call, and when to end early.

Owns the rule that calls without checkpoints pay nothing: a worker looks for one only where an
earlier run may have left it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from time import monotonic
from typing import Any, TypeVar

from ..app import current
from ..brokers import Broker, Remembering
from ..config import Config
from ..errors import ConfigurationError, MessageError, Stopped, TaskFailed
from ..sending.portal import portal
from ..sending.progress import CHECKPOINT
from ..tasks.current import current_message, current_run
from ..wire.results import decode_checkpoint, encode_checkpoint
from .jobs import Job

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: How long a checkpoint is kept for the next run of its call, and its maximum size.
KEPT_SECONDS, MOST_BYTES = 7 * 86400.0, 64 * 1024

#: Minimum time between two checkpoints that `resumable` leaves.
_SECONDS = 1.0


async def checkpoint(value: object) -> None:
    """Keep a small value for the next run of this call, if this one does not finish.

    After a crash, a deploy, a retry or a `Snooze`, and when a dead letter is retried within a week,
    `current_message().checkpoint` holds it; it is deleted when the call is done. Whatever the run
    did after its last checkpoint is done again. Does nothing in `Call.execute`.

    Args:
        value: Anything that can be an argument except model instances, up to 64 KiB.

    Raises:
        LookupError: No task is running here.
        SerializationError: The value cannot travel, or is too large.
        ConfigurationError: The broker cannot keep it.
        BrokerUnavailable: It may not have been kept.
    """
    job = _job()
    app, message_id = current(), job.message.id
    kept = encode_checkpoint(
        value, app.adapters.plain_form, app.config.signing_key, message_id, MOST_BYTES
    )
    job.message.checkpoint = value
    if not job.delivery.queue:
        return
    broker = app.open_broker()
    if not isinstance(broker, Remembering):
        raise ConfigurationError(f"{broker.describe()} cannot keep checkpoints")
    job.has_checkpoint = True
    queue = job.delivery.queue
    await broker.set_value(queue, CHECKPOINT, message_id, kept, ttl_seconds=KEPT_SECONDS)


def checkpoint_sync(value: object) -> None:
    """`checkpoint` for a `def` task."""
    portal.run(checkpoint(value))


def is_stopping() -> bool:
    """Whether the worker running this task is stopping, so that a long task should end early.

    The task should then leave a `checkpoint` and raise `Stopped`: the call goes back to its queue
    without using up an attempt, and continues in another worker. Always false in `Call.execute`.

    Raises:
        LookupError: No task is running here.
    """
    return _job().is_stopping()


async def resumable(
    items: Iterable[T] | AsyncIterable[T] | Callable[[Any], Iterable[T] | AsyncIterable[T]],
    *,
    key: Callable[[T], Any],
) -> AsyncIterator[T]:
    """Iterate over items in the order of their keys; the call's next run continues where this ends.

    Leaves a checkpoint after the last finished item, at most once a second, and again when the
    worker stops; in that case it ends the run by raising `Stopped`. An item is finished when the
    next one is asked for.

    Args:
        items: The items, ordered by key, as those up to the checkpoint are skipped; or a function
            that returns the items after a key (`None`: from the start), such as a query.
        key: Returns an item's key; it may be anything that can be a checkpoint.

    Raises:
        Stopped: The worker is stopping.
        LookupError: No task is running here.
    """
    job = _job()
    last = job.message.checkpoint
    given = items(last) if callable(items) else items
    since = monotonic()
    async for item in _each(given):
        its_key = key(item)
        if last is not None and not its_key > last:
            continue
        yield item
        last = its_key
        if job.is_stopping():
            await checkpoint(last)
            raise Stopped
        if monotonic() - since >= _SECONDS:
            await checkpoint(last)
            since = monotonic()


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _job() -> Job:
    current_message()  # raises where no task is running
    run = current_run.get()
    assert isinstance(run, Job)
    return run


def may_have_checkpoint(job: Job) -> bool:
    """Whether an earlier run may have left a checkpoint.

    A run that ended says so in the message; a run that died could not.
    """
    return job.delivery.deliveries > 1 or job.message.resumed > 0


async def load_checkpoint(job: Job, broker: Broker, config: Config) -> None:
    """Give a run the checkpoint that the previous run left, if any.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    if not isinstance(broker, Remembering):
        return
    message = job.message
    kept = await broker.value(job.delivery.queue, CHECKPOINT, message.id)
    if kept is None:
        return
    try:
        message.checkpoint = decode_checkpoint(kept, config.signing_key, message.id)
    except (MessageError, TaskFailed) as e:
        fields = {"id": message.id, "queue": job.delivery.queue, "error": str(e)}
        logger.warning("a checkpoint cannot be read; the call starts over", extra=fields)
    else:
        job.has_checkpoint = True
