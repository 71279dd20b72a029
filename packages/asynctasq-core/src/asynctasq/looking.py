"""What there is: queues, workers, keys, outboxes, for whoever shows them to people.

Beside it, `asynctasq.deadletters`, `asynctasq.scheduling` and `asynctasq.history` tell of the rest.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from .app import current
from .brokers import KeyInUse, Listing, Policing, QueueStats, WorkerInfo
from .brokers.opening import open_broker
from .errors import MessageError
from .sending.ending import RECORD_SECONDS, end
from .sending.portal import portal
from .services.backlog import Backlog, backlogs
from .wire.message import Message
from .wire.results import encode_cancelled

R = TypeVar("R")

__all__ = [
    "Backlog",
    "KeyInUse",
    "QueueStats",
    "WorkerInfo",
    "cancel",
    "describe",
    "keys_in_use",
    "outboxes",
    "purge",
    "queues",
    "run_sync",
    "shows_arguments",
    "waiting_since",
    "workers",
]


def describe() -> str:
    """Kind and address of the broker, without a password."""
    return open_broker(current().config).describe()


def shows_arguments() -> bool:
    """Whether the arguments of calls are shown to people at all."""
    return current().config.show_arguments


async def queues() -> list[QueueStats]:
    """Every known queue with how many messages are in each state, by name.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    return await current().open_broker().stats()


async def workers() -> list[WorkerInfo]:
    """Workers that gave a sign of life within their lease.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    return await current().open_broker().workers()


async def outboxes() -> list[Backlog]:
    """What lies in the outbox of each database; nothing where none is in use."""
    return await backlogs(current().config, current().outbox)


async def keys_in_use(queue: str, *, limit: int = 100) -> list[KeyInUse] | None:
    """The keys of a queue that are taken or have messages, the longest lines first.

    Returns:
        `None` if the broker knows no keys.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    broker = current().open_broker()
    return await broker.keys_in_use(queue, limit=limit) if isinstance(broker, Policing) else None


async def cancel(queue: str, message_id: str) -> bool:
    """Take a call out of its queue, or have it ended while it runs.

    Returns:
        Whether it was there, neither ended nor given up.

    Raises:
        ConfigurationError: The broker cannot reach calls that run.
        BrokerUnavailable: Not known to be done; call again.
    """
    app = current()
    record = encode_cancelled(app.config.signing_key, message_id)
    return await end(app.open_broker(), queue, message_id, record, RECORD_SECONDS)


async def waiting_since(queues: Sequence[str]) -> dict[str, float]:
    """When the call that is next in each of these queues was dispatched, where one waits.

    It is the oldest, but where priorities or retries went by. One question for each queue; nothing
    where the broker does not list what it holds.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    app = current()
    broker = app.open_broker()
    if not isinstance(broker, Listing):
        return {}
    found: dict[str, float] = {}
    for queue in queues:
        for held in (await broker.held(queue, "waiting", limit=1)).messages:
            with suppress(MessageError):
                found[queue] = Message.decode(held.body, app.config.signing_key).enqueued_at
    return found


async def purge(queue: str) -> int:
    """Delete everything that waits or is delayed in the queue; returns how many.

    Raises:
        BrokerUnavailable: The broker cannot be reached; some may be gone.
    """
    return await current().open_broker().purge(queue)


def run_sync(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine of this module or of those beside it for synchronous code.

    All of them share one connection, on an event loop in a thread of its own.
    """
    return portal.run(coroutine)
