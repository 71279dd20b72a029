"""What must not be left half way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def uninterrupted(work: Coroutine[Any, Any, R]) -> R:
    """Wait for the end of something, also if whoever waits is cancelled meanwhile.

    For a commit: cancelled in the middle, nobody could say what has become of it. What has ended
    well is not cancelled any more, so its result is returned then, too.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
    return task.result()
