"""Cancelling a call, before it has started or while it runs.

Owns the note by which the worker that runs a call learns that it is cancelled: a small value of the
call's queue, under the call's id.
"""

from __future__ import annotations

from ..brokers import Broker, Remembering
from ..errors import ConfigurationError

#: The kind of the values.
CANCELLED = "cancelled"

#: How long a note waits for the worker, which looks several times a second.
_NOTE_SECONDS = 60.0

#: How long the cancellation of a running call is on record where its task keeps nothing.
RECORD_SECONDS = 3600.0


async def remove(broker: Broker, queue: str, message_id: str, record: bytes, ttl: float) -> bool:
    """Take a call out of its queue that has not started; returns whether it was there.

    Args:
        record: What is kept for `ttl` seconds; nothing with 0.
    """
    return await broker.cancel(queue, message_id, record if ttl else None, ttl)


async def end(broker: Broker, queue: str, message_id: str, record: bytes, ttl: float) -> bool:
    """As `remove`; but one that runs is to be ended by its worker.

    Returns:
        Whether it was removed, or runs and is told to end.

    Raises:
        ConfigurationError: The broker cannot tell the worker.
    """
    if not isinstance(broker, Remembering):
        raise ConfigurationError(f"{broker.describe()} cannot reach calls that run")
    if await remove(broker, queue, message_id, record, ttl):
        return True
    # First of all, so that a run which begins from here on is told.
    await broker.set_value(queue, CANCELLED, message_id, b"", ttl_seconds=_NOTE_SECONDS)
    while (state := await broker.state(queue, message_id)) in ("waiting", "delayed"):
        if await remove(broker, queue, message_id, record, ttl):
            break
    if state == "running":
        return True
    await broker.set_value(queue, CANCELLED, message_id, None)
    return state in ("waiting", "delayed")
