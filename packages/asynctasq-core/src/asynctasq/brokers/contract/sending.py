"""What a broker does for whoever sends a message and asks what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

MessageState = Literal["waiting", "delayed", "running", "dead"]


@dataclass(slots=True)
class Outgoing:
    """A message on its way into a queue.

    Attributes:
        queue: Name of the queue.
        id: The message's id, chosen by the sender.
        body: The encoded message.
        due: Unix time in seconds before which nobody may take it; `None` for at once.
    """

    queue: str
    id: str
    body: bytes
    due: float | None = None


class Sending(Protocol):
    """Putting messages into queues, and following them."""

    async def put(self, messages: Sequence[Outgoing]) -> None:
        """Add the messages, in order, in as few round trips as the server allows (one per slot).

        A message whose id its queue holds already is left as it is, so a call that failed may be
        repeated. Only a message that was added and done before the repetition is added again.

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
