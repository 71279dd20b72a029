"""What must not be left half way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def uninterrupted(work: Coroutine[Any, Any, R]) -> R:
    """Do something to its end, also if whoever waits for it is cancelled meanwhile.

    For a commit: stopped in the middle, nobody could say what has become of it.

    Raises:
        CancelledError: It was cancelled meanwhile; the work has ended well all the same.
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
