"""Running a function in a thread so that a timeout or a shutdown can stop it."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any

from ..errors import TaskTimeout


class _Interruptible:
    """A function that another thread may interrupt while it runs.

    CPython raises the exception at the next bytecode; a call into C ends first.
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
            # A future takes no StopIteration, and would wait for ever; GeneratorExit would close
            # the coroutine that waits.
            raise RuntimeError(f"the function raised {type(e).__name__}") from e
        finally:
            with self._lock:
                if self._was_interrupted:  # too late: the thread's next function must not get it
                    _receive_late(self._thread)
                self._thread = None
                self._has_ended = True

    def interrupt(self) -> bool:
        """Raise `TaskTimeout` in the function; `False` if it has ended already."""
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
    """Let an interrupt that may still be on its way arrive here, in the interrupted thread.

    Withdrawing it instead would leave CPython 3.11 looking for it in every thread, for ever: the
    first function that is called under a profiler, a tracer or a debugger would never begin.
    """
    try:
        _raise_in(this_thread)  # takes the place of the one that is on its way
        while True:
            pass
    except TaskTimeout:
        return


async def run_in_thread(threads: Executor, function: Callable[[], Any]) -> Any:
    """Run the function in a thread, with this context's variables.

    Cancelling interrupts the function and waits until it has ended, so that it never runs on beside
    its next attempt. What had ended before is not cancelled any more: it would be done twice.
    """
    work = _Interruptible(function)
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(threads, copy_context().run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not work.interrupt():
            return await future
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # whatever it was, being stopped is what counts
        raise
