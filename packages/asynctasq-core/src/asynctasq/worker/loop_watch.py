"""Notices that a task blocks the event loop, from a thread that still runs then.

While the loop is blocked, no other task makes progress, no `timeout` takes effect and no message is
taken. Owns the rule that this is logged once, with the place in the code that blocks the loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

#: A loop that does not answer for this long counts as blocked.
BLOCKED_SECONDS = 5.0

#: How often to ask it.
INTERVAL_SECONDS = 1.0

#: How many frames to log; the innermost calls are what matters.
_FRAMES = 15


class LoopWatch:
    """A thread that watches the running event loop.

    Args:
        fields_of: Gives log fields for the asyncio task that blocks it; called in the thread.
        note: Called in the thread when the loop is blocked, and when it answers again.
    """

    def __init__(
        self,
        fields_of: Callable[[asyncio.Task[Any] | None], dict[str, str]],
        note: Callable[[bool], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._loops_thread = threading.get_ident()
        self._fields_of = fields_of
        self._note = note
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asynctasq-loop", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            answered = ask(self._loop)
            if answered is None:
                return
            if answered.wait(BLOCKED_SECONDS):
                continue
            self._report()
            self._note(True)
            while not answered.wait(INTERVAL_SECONDS):
                if self._loop.is_closed():
                    return
            self._note(False)

    def _report(self) -> None:
        frame = sys._current_frames().get(self._loops_thread)
        stack = "".join(traceback.format_stack(frame, limit=_FRAMES)) if frame is not None else ""
        logger.warning(
            "a task blocks the event loop and all others: no answer for %g s\n%s",
            BLOCKED_SECONDS,
            stack,
            extra=self._fields_of(asyncio.current_task(self._loop)),
        )


def ask(loop: asyncio.AbstractEventLoop) -> threading.Event | None:
    """An event that the loop sets as soon as it can; `None` if the loop is closed."""
    answered = threading.Event()
    try:
        loop.call_soon_threadsafe(answered.set)
    except RuntimeError:
        return None
    return answered
