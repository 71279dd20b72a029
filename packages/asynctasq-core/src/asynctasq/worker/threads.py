"""Runs functions in threads that a timeout or shutdown can stop, and tracks those still running.

Owns the knowledge of what a run left in threads. Cancelling an `await asyncio.to_thread(...)` ends
the coroutine at once, but the function goes on; a message may only be given back after both ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from ..errors import TaskTimeout
from ..tasks.current import Run, current_run

#: Threads for `asyncio.to_thread` and the like; with asyncio's few, many tasks would have to wait.
DEFAULT_THREADS = 32


class ThreadTracker:
    """Wraps an event loop's `run_in_executor` and remembers what has not ended.

    It replaces the method, not the executor, since libraries such as asgiref bring their own
    executors.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._default = ThreadPoolExecutor(DEFAULT_THREADS, "asyncio")
        self._busy: set[Future[Any]] = set()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> ThreadTracker:
        """The loop's tracker; if it has none, it gets one, with a new default executor."""
        tracker = getattr(loop.run_in_executor, "__self__", None)
        if not isinstance(tracker, cls):
            tracker = cls(loop)
            loop.set_default_executor(tracker._default)
            loop.run_in_executor = tracker.run_in_executor  # type: ignore[method-assign, assignment]
        return tracker

    def run_in_executor(
        self, executor: Executor | None, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As the event loop's own method."""
        future = (executor or self._default).submit(function, *args)
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        if (run := current_run.get(None)) is not None:
            if run.threads is None:
                run.threads = set()
            run.threads.add(future)
            future.add_done_callback(run.threads.discard)
        return asyncio.wrap_future(future, loop=self._loop)

    async def until_idle(self, seconds: float) -> bool:
        """Wait up to `seconds` until nothing is left in any executor; return whether so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until_ended(self._busy)
        return not self._busy


def are_alive(run: Run) -> bool:
    """Whether part of the run goes on in a thread; may be called in any thread."""
    return any(not future.done() for future in tuple(run.threads or ()))


async def until_ended(threads: set[Future[Any]]) -> None:
    """Wait until everything running in threads has ended; cancel what has not begun."""
    loop = asyncio.get_running_loop()
    while pending := [f for f in tuple(threads) if not (f.done() or f.cancel())]:
        ended = asyncio.Event()

        def wake(_: object, ended: asyncio.Event = ended) -> None:
            with suppress(RuntimeError):  # the loop was closed without waiting for us
                loop.call_soon_threadsafe(ended.set)

        pending[0].add_done_callback(wake)
        await ended.wait()


async def outlast(run: Run) -> None:
    """Wait until a run's threads have ended, however often this is cancelled meanwhile."""
    while run.threads and are_alive(run):
        with suppress(asyncio.CancelledError):
            await until_ended(run.threads)


class _Interruptible:
    """A function that another thread can interrupt while it runs.

    CPython raises the exception at the next bytecode; a call into C must return first.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._was_interrupted = False
        self._has_ended = False

    def __call__(self) -> Any:
        with self._lock:
            if self._was_interrupted:
                raise TaskTimeout("stopped before it began")
            self._thread = threading.get_ident()
        try:
            return self._function()
        except (StopIteration, GeneratorExit) as e:
            # A future refuses StopIteration and would wait for ever; GeneratorExit would close the
            # waiting coroutine.
            raise RuntimeError(f"the function raised {type(e).__name__}") from e
        finally:
            with self._lock:
                if self._was_interrupted:  # too late, and the next function must not be hit
                    _receive_late(self._thread)
                self._thread = None
                self._has_ended = True

    def interrupt(self) -> bool:
        """Raise `TaskTimeout` in the function; return `False` if it has already ended."""
        with self._lock:
            self._was_interrupted = True
            if self._thread is not None:
                _raise_in(self._thread)
            return not self._has_ended


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(TaskTimeout)
    )


def _receive_late(this_thread: int) -> None:
    """Absorb, in the interrupted thread, an interrupt that may still be on its way.

    Withdrawing it instead would leave CPython 3.11 looking for it in every thread, for ever: the
    next function called under a profiler, tracer or debugger would never begin.
    """
    try:
        _raise_in(this_thread)  # replaces the one that is on its way
        while True:
            pass
    except TaskTimeout:
        return


async def run_in_thread(threads: Executor, function: Callable[[], Any]) -> Any:
    """Run the function in a thread, with this context's variables.

    Cancelling interrupts the function and waits until it has ended, however often that is
    cancelled, so that it never runs alongside its next attempt. A function that has already ended
    is not cancelled any more, since its work would be done twice.
    """
    work = _Interruptible(function)
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(threads, copy_context().run, work)
    try:
        # Not `shield`, which from Python 3.14 on logs how a function that was interrupted ended.
        await asyncio.wait([future])
        return future.result()
    except asyncio.CancelledError:
        if not work.interrupt():
            return await future
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # mark it as retrieved; what counts is that the run was stopped
        raise
