"""Telling of calls that the broker has.

Owns the rule that a call is told of when it is in its queue and not before: what waits for a
commit, or for a broker that is away, has not been dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..brokers import Outgoing
from ..errors import MessageError
from ..events import Dispatched, tell, wanted
from ..wire.message import Message


def tell_dispatched(messages: Iterable[Outgoing], refused: Mapping[str, str] | None = None) -> None:
    """Tell of messages that the broker has taken, if anybody listens.

    Args:
        refused: What `put` returned: those that were not added.
    """
    if Dispatched in wanted:
        for outgoing in messages:
            if not refused or outgoing.id not in refused:
                tell(_dispatched(outgoing))


def _dispatched(outgoing: Outgoing) -> Dispatched:
    try:
        # Its signature is whoever runs it to verify; the outbox holds what this process did not
        # write.
        message = Message.decode(outgoing.body)
    except MessageError:
        message = Message(outgoing.id, "", b"", 0.0)
    return Dispatched(
        task=message.task,
        id=outgoing.id,
        queue=outgoing.queue,
        headers=message.headers,
        due=outgoing.due,
        payload_bytes=len(outgoing.body),
    )
