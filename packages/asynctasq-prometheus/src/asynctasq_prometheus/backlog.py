"""How long calls have been waiting in queues and outboxes, measured regularly.

Workers measure it, because an outbox is in the application's database. All report the same, so take
the `max` of them. The number of queues measured is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from time import time

from asynctasq import BrokerError
from asynctasq.looking import outboxes, queues, waiting_since
from prometheus_client import Gauge

from .labels import bounded

logger = logging.getLogger(__name__)

#: Time between two looks.
INTERVAL_SECONDS = 15.0

#: Maximum number of queues to ask about, those with the longest lines.
MOST_QUEUES = 50

WAITING = Gauge(
    "asynctasq_next_waiting_seconds",
    "How long the next call of a queue has been waiting; 0 if none is waiting.",
    ["queue"],
    multiprocess_mode="livemax",
)
OUTBOX = Gauge(
    "asynctasq_outbox_messages",
    "Calls in the outbox of a database.",
    ["database"],
    multiprocess_mode="livemax",
)
OUTBOX_OLDEST = Gauge(
    "asynctasq_outbox_oldest_seconds",
    "How long the oldest call has been in the outbox of a database; 0 if there is none.",
    ["database"],
    multiprocess_mode="livemax",
)


async def measure_backlog() -> None:
    """Keep measuring until cancelled."""
    known: set[str] = set()
    while True:
        try:
            known = await _look(known)
        except BrokerError as e:
            logger.debug("the backlog waits for the broker: %s", e)
        except Exception:
            logger.exception("the backlog could not be measured")
        await asyncio.sleep(INTERVAL_SECONDS)


async def _look(known: set[str]) -> set[str]:
    """Set all gauges; returns the queues set, which go back to 0 once nothing waits there."""
    waiting = sorted((q for q in await queues() if q.waiting), key=lambda q: -q.waiting)
    since = await waiting_since([queue.name for queue in waiting[:MOST_QUEUES]])
    now = time()
    for name in known - since.keys():
        WAITING.labels(bounded("queue", name)).set(0)
    for name, moment in since.items():
        WAITING.labels(bounded("queue", name)).set(max(0.0, now - moment))
    for outbox in await outboxes():
        if outbox.waiting is not None:
            OUTBOX.labels(outbox.database).set(outbox.waiting)
            OUTBOX_OLDEST.labels(outbox.database).set(outbox.oldest_seconds or 0.0)
    return set(since)
