"""The event loop on which synchronous code talks to the broker."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class Portal:
    """An event loop in a thread of its own, started at first use.

    One for the whole process, so that the dispatches of all threads share a connection and round
    trips. Made anew in a forked child, which inherits no thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the loop and wait for its end; in any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started()).result()

    def submit(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine on the loop without waiting."""
        asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def run_if_started(self, coroutine: Coroutine[Any, Any, object], *, wait: bool = False) -> None:
        """Run a coroutine on the loop; not at all if this process has no loop."""
        if self._loop is None or self._pid != os.getpid():
            coroutine.close()
            return
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if wait:
            future.result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="asynctasq-dispatch", daemon=True
                ).start()
            return self._loop


portal = Portal()
