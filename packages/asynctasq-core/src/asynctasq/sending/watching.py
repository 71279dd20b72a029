"""Waits for news of a call: other progress, or its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any

from ..brokers import Broker, Remembering
from .portal import portal
from .progress import PROGRESS, Progress

#: How long to wait for news before looking at the call's state: if whatever ends the call wakes
#: the one who waits, and if not. The former is for workers that are killed at the very end.
WOKEN_SECONDS, UNWOKEN_SECONDS = 5.0, 0.5


async def told_progress(broker: Broker, queue: str, message_id: str) -> bytes | None:
    """What a call has told of its progress, as the broker keeps it.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    if not isinstance(broker, Remembering):
        return None
    return await broker.value(queue, PROGRESS, message_id)


async def until_news(
    broker: Broker, queue: str, message_id: str, told: bytes | None, seconds: float
) -> None:
    """Return once a call has told something else than `told`, or has a result, or after `seconds`.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    waits: list[Coroutine[Any, Any, bytes | None]] = [broker.result(queue, message_id, seconds)]
    if isinstance(broker, Remembering):
        waits.append(broker.changed_value(queue, PROGRESS, message_id, told, seconds))
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def iterated(updates: AsyncGenerator[Progress, None]) -> Iterator[Progress]:
    """The same updates for synchronous code."""
    try:
        while (update := portal.run(_next(updates))) is not None:
            yield update
    finally:
        portal.run(updates.aclose())


async def _next(updates: AsyncGenerator[Progress, None]) -> Progress | None:
    return await anext(updates, None)
