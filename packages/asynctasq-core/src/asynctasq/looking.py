"""Queues, workers, keys and outboxes, for tools that show them to people.

`asynctasq.deadletters`, `asynctasq.scheduling` and `asynctasq.history` have the rest.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from .app import current
from .brokers import KeyInUse, Policing, QueueStats, WorkerInfo
from .brokers.opening import open_broker
from .listing import cancel_in
from .sending import listing
from .sending.portal import portal
from .services.backlog import Backlog, backlogs

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
    """The broker's kind and address, without a password."""
    return open_broker(current().config).describe()


def shows_arguments() -> bool:
    """Whether people may see the arguments of calls."""
    return current().config.show_arguments


async def queues() -> list[QueueStats]:
    """Every known queue, by name, with the number of messages in each state.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    return await current().open_broker().stats()


async def workers() -> list[WorkerInfo]:
    """Workers that showed a sign of life within their lease.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    return await current().open_broker().workers()


async def outboxes() -> list[Backlog]:
    """The backlog in the outbox of each database; empty if none is in use."""
    return await backlogs(current().config, current().outbox)


async def keys_in_use(queue: str, *, limit: int = 100) -> list[KeyInUse] | None:
    """The keys of a queue that are taken or have messages waiting, longest line first.

    Returns:
        `None` if the broker does not support keys.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    broker = current().open_broker()
    return await broker.keys_in_use(queue, limit=limit) if isinstance(broker, Policing) else None


async def cancel(queue: str, message_id: str) -> bool:
    """Remove a call from its queue, or have its worker end it if it is running.

    A batch that the call is part of counts it as failed.

    Returns:
        Whether it was there, neither ended nor given up.

    Raises:
        ConfigurationError: The broker cannot reach running calls.
        BrokerUnavailable: It may not have been cancelled; call again.
    """
    return await cancel_in(queue, message_id)


async def waiting_since(queues: Sequence[str]) -> dict[str, float]:
    """When the next call in each of these queues was dispatched, for queues in which calls wait.

    It is the oldest unless priorities or retries came in between. Asks once per queue; returns
    nothing if the broker cannot list what it holds.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    app = current()
    return await listing.waiting_since(app.open_broker(), queues, app.config.signing_key)


async def purge(queue: str) -> int:
    """Delete all waiting and delayed calls in the queue; returns how many there were.

    Raises:
        BrokerUnavailable: The broker cannot be reached; some may have been deleted.
    """
    return await current().open_broker().purge(queue)


def run_sync(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine of this module, or of those named above, from synchronous code.

    They all share one connection, on an event loop in a thread of its own.
    """
    return portal.run(coroutine)
