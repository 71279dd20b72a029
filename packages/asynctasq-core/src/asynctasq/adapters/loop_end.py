"""Closes resources that belong to an event loop when that loop shuts down."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress


def at_loop_end(close: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """Have `close` awaited when the running event loop shuts down.

    Relies on `loop.shutdown_asyncgens()`, which `asyncio.run` and every other proper way of ending
    a loop calls.

    Returns:
        A function that awaits `close` early; it is awaited only once. Keep a reference to the
        function: once it is garbage-collected, the loop awaits `close`.
    """
    end = _end(close)
    with suppress(StopIteration):  # run to its `yield`, so that the loop registers it
        end.asend(None).send(None)
    return end.aclose


async def _end(close: Callable[[], Awaitable[object]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close()
