"""Runs work that should not be abandoned halfway."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def uninterrupted(work: Coroutine[Any, Any, R]) -> R:
    """Finish the work even if the caller is cancelled meanwhile.

    For commits: if one were stopped in the middle, no one could say whether it took effect.

    Raises:
        CancelledError: The caller was cancelled meanwhile; the work still succeeded.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as e:
            cancelled = e
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


async def given_time(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Run work; if the caller is cancelled, give it this long to end before it is cancelled, too.

    For work in a database: a query that is cancelled costs its connection, and not every driver
    closes that.
    """
    running = asyncio.create_task(work)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        await asyncio.wait([running], timeout=seconds)
        raise
    finally:
        running.cancel()
        await asyncio.wait([running])
        error = None if running.cancelled() else running.exception()
    if error is not None:
        raise error
