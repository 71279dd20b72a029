"""What a broker does for senders: it accepts messages and tells what became of them."""

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
        queue: The queue's name.
        id: The message's id, chosen by the sender.
        body: The encoded message.
        due: The earliest Unix time, in seconds, at which it may be taken; `None` for immediately.
        priority: -100 to 100. In its queue, a waiting message is taken before all of lower
            priority; among equals, first in, first out.
        policy: What it asks for besides delivery; only a broker that is `Policing` accepts one.
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
        timeout_seconds: How long `put` keeps trying while the server is unreachable.
    """

    timeout_seconds: float

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add the messages, in order, in as few round trips as the server allows (one per slot).

        A message whose id is already in its queue is left as it is, so a failed call can be
        repeated. Only a message that was added and finished in between is added again.

        Returns:
            For each message that was not added because its unique key is taken: its id, mapped to
            the id of the key's holder. `None` if all were added. Both ids are equal if the message
            with this id still holds the key but is done already, or can no longer be replaced.

        Raises:
            BrokerUnavailable: The server cannot be reached or refuses writes; raised within a
                bounded time. Some of the messages may have been added.
        """

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """The message's current state; `None` if it is not, or no longer, in the queue."""

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a waiting or delayed message, and keep `result` if given.

        Returns:
            Whether it was removed; `False` if it is running, dead or unknown.
        """

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """Wait for the result; return it as soon as it exists, or `None` after the timeout."""
