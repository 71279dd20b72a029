"""What there is: queues, workers, keys, outboxes, for whoever shows them to people.

Beside it, `asynctasq.deadletters`, `asynctasq.scheduling` and `asynctasq.history` tell of the rest.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from .app import current
from .brokers import KeyInUse, Policing, QueueStats, WorkerInfo
from .brokers.opening import open_broker
from .sending.portal import portal
from .services.backlog import Backlog, backlogs

R = TypeVar("R")

__all__ = [
    "Backlog",
    "KeyInUse",
    "QueueStats",
    "WorkerInfo",
    "describe",
    "keys_in_use",
    "outboxes",
    "purge",
    "queues",
    "run_sync",
    "shows_arguments",
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
