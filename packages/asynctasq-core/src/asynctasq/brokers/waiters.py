"""Wakes calls that wait for a change, whatever event loop they run on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Waiters:
    """Calls that wait for one kind of change."""

    def __init__(self) -> None:
        self._events: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def __bool__(self) -> bool:
        return bool(self._events)

    @contextmanager
    def waiter(self) -> Iterator[asyncio.Event]:
        """An event on the running loop that `wake` sets."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        self._events.add(entry)
        try:
            yield entry[1]
        finally:
            self._events.discard(entry)

    def wake(self) -> None:
        """Set every event; callable from any thread."""
        for loop, event in tuple(self._events):
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # the loop was closed while its call was still waiting
                self._events.discard((loop, event))


async def wait(changed: asyncio.Event, seconds: float) -> None:
    """Return once `changed` is set, or after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
