"""Emits `Dispatched` events for calls that the broker has accepted.

Owns the rule that the event comes when a call is in its queue and not before: a call that waits for
a commit, or for a broker that is away, has not been dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time

from ..brokers import Outgoing
from ..errors import MessageError
from ..events import Dispatched, tell, wanted
from ..events.kinds import made
from ..wire.message import Message


def tell_dispatched(messages: Iterable[Outgoing], refused: Mapping[str, str] | None = None) -> None:
    """Emit events for messages that the broker has accepted, if anyone listens.

    Args:
        refused: What `put` returned: the messages that were not added.
    """
    if Dispatched in wanted:
        for outgoing in messages:
            if not refused or outgoing.id not in refused:
                tell(_dispatched(outgoing))


def _dispatched(outgoing: Outgoing) -> Dispatched:
    try:
        # Without keys: whoever runs the message verifies its signature, and the outbox may hold
        # messages that this process did not write.
        message = Message.decode(outgoing.body)
    except MessageError:
        message = Message(outgoing.id, "", b"", 0.0)
    fields = {
        "at": time(),
        "task": message.task,
        "id": outgoing.id,
        "queue": outgoing.queue,
        "headers": message.headers,
        "due": outgoing.due,
        "payload_bytes": len(outgoing.body),
    }
    return made(Dispatched, fields)
