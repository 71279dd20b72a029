"""What a broker does for senders: taking messages, and telling what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .policies import Policy

MessageState = Literal["waiting", "delayed", "running", "dead"]


@dataclass(slots=True)
class Outgoing:
    """A message on its way into a queue.

    Attributes:
        queue: Name of the queue.
        id: The message's id, chosen by the sender.
        body: The encoded message.
        due: Unix time in seconds before which nobody may take it; `None` for at once.
        priority: -100 to 100. A waiting message of a higher one is taken before all of a lower one
            in its queue; among equals, first in, first out.
        policy: What it asks for besides; only a broker that is `Policing` takes one.
    """

    queue: str
    id: str
    body: bytes
    due: float | None = None
    priority: int = 0
    policy: Policy | None = None


class Sending(Protocol):
    """Putting messages into queues, and following them.

    Attributes:
        timeout_seconds: How long `put` tries while the server is away.
    """

    timeout_seconds: float

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add the messages, in order, in as few round trips as the server allows (one per slot).

        A message whose id its queue holds already is left as it is, so a call that failed may be
        repeated. Only a message that was added and done before the repetition is added again.

        Returns:
            For each message that was not added because its unique key is taken, by the id of the
            one that was put, the id of the one that has the key; or `None` if all were added.
            Both ids are the same where a message of this id has the key and is done already, or is
            not to be replaced any more.

        Raises:
            BrokerUnavailable: Within a bounded time, when the server cannot be reached or refuses
                writes; none or some of the messages may have been added.
        """

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now; `None` when the queue does not hold it (any more)."""

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a message that is waiting or delayed, keeping `result` if there is one.

        Returns:
            Whether it was removed; `False` when it is running, dead or unknown.
        """

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """The kept result, woken as soon as it is there; `None` after `timeout_seconds`."""
