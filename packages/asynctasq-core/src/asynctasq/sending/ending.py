"""Cancels a call, before it has started or while it runs.

Owns the note that tells a worker that a call it runs is cancelled: a small value in the call's
queue, under the call's id.
"""

from __future__ import annotations

from ..brokers import Broker, Remembering
from ..errors import ConfigurationError

#: The kind of the values.
CANCELLED = "cancelled"

#: How long a note is kept for the worker, which looks several times a second.
_NOTE_SECONDS = 60.0

#: How long the cancellation of a running call is on record if its task keeps nothing.
RECORD_SECONDS = 3600.0


async def remove(broker: Broker, queue: str, message_id: str, record: bytes, ttl: float) -> bool:
    """Remove a call that has not started from its queue; return whether it was there.

    Args:
        record: What to keep for `ttl` seconds; nothing is kept if that is 0.
    """
    return await broker.cancel(queue, message_id, record if ttl else None, ttl)


async def end(broker: Broker, queue: str, message_id: str, record: bytes, ttl: float) -> bool:
    """Like `remove`, but if the call is running, tell its worker to end it.

    Returns:
        Whether it was removed, or is running and its worker was told to end it.

    Raises:
        ConfigurationError: The broker cannot tell the worker.
    """
    if not isinstance(broker, Remembering):
        raise ConfigurationError(f"{broker.describe()} cannot reach calls that run")
    if await remove(broker, queue, message_id, record, ttl):
        return True
    # Before anything else, so that a run which begins from now on sees it.
    await broker.set_value(queue, CANCELLED, message_id, b"", ttl_seconds=_NOTE_SECONDS)
    while (state := await broker.state(queue, message_id)) in ("waiting", "delayed"):
        if await remove(broker, queue, message_id, record, ttl):
            break
    if state == "running":
        return True
    await broker.set_value(queue, CANCELLED, message_id, None)
    return state in ("waiting", "delayed")
