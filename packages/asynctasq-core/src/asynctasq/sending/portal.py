"""The event loop through which synchronous code talks to the broker."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, TypeVar

R = TypeVar("R")


class Portal:
    """An event loop in its own thread, started on first use.

    The whole process has one, so that dispatches from all threads share a connection and round
    trips. A forked child, which inherits no thread, starts another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the loop and wait for it; call from any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started()).result()

    def wait_for(self, begin: Callable[[], asyncio.Future[R]]) -> R:
        """Let the loop call `begin`, and wait for the future that it returns; from another thread.

        Unlike `run`, this makes no asyncio task, which would double its cost.
        """
        answer: futures.Future[R] = futures.Future()

        def hand_over(future: asyncio.Future[R]) -> None:
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or isinstance(error, asyncio.CancelledError):
                answer.cancel()  # the waiting thread has no asyncio task to cancel
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(future.result())

        def call() -> None:
            try:
                begin().add_done_callback(hand_over)
            except BaseException as e:  # noqa: BLE001 - whoever waits gets it
                answer.set_exception(e)

        self._started().call_soon_threadsafe(call)
        return answer.result()

    def submit(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine on the loop without waiting for it."""
        asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def run_if_started(self, coroutine: Coroutine[Any, Any, object], *, wait: bool = False) -> None:
        """Run a coroutine on the loop, but only if this process has started one."""
        future = self._begun_if_started(coroutine)
        if wait and future is not None:
            future.result()

    async def finish_if_started(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """The same, waiting on the event loop of the caller."""
        if (future := self._begun_if_started(coroutine)) is not None:
            await asyncio.wrap_future(future)

    def _begun_if_started(self, coroutine: Coroutine[Any, Any, R]) -> futures.Future[R] | None:
        if self._loop is None or self._pid != os.getpid():
            coroutine.close()
            return None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="asynctasq-dispatch", daemon=True
                ).start()
            return self._loop


portal = Portal()
