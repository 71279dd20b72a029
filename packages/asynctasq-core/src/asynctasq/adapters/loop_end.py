"""Closing what belongs to an event loop when the loop is shut down."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress


def at_loop_end(close: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """Have `close` awaited when the running event loop shuts down.

    By `loop.shutdown_asyncgens()`, which `asyncio.run` and every other proper way of ending a loop
    calls.

    Returns:
        What awaits `close` earlier, and once only. It must be kept: without it, `close` is awaited
        soon after.
    """
    end = _end(close)
    with suppress(StopIteration):  # up to its `yield`, so that the loop knows of it
        end.asend(None).send(None)
    return end.aclose


async def _end(close: Callable[[], Awaitable[object]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close()
