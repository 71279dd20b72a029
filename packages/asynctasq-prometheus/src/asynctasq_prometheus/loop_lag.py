"""How late the event loop is: how much longer a short sleep takes than it should."""

from __future__ import annotations

import asyncio

from asynctasq.events import dropped_events
from prometheus_client import Gauge

from .measuring import DROPPED

INTERVAL_SECONDS = 1.0

LAG = Gauge(
    "asynctasq_event_loop_lag_seconds",
    "How late the event loop was in the last second, in the worst of all processes.",
    multiprocess_mode="livemax",
)


async def measure_lag() -> None:
    """Keep measuring until cancelled."""
    loop, dropped = asyncio.get_running_loop(), 0
    while True:
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        LAG.set(max(0.0, loop.time() - due))
        before, dropped = dropped, dropped_events()
        DROPPED.inc(max(0, dropped - before))
