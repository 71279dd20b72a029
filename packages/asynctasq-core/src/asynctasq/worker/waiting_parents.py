"""Watches for tasks that wait for other tasks' results and leave them no slot to run in.

Owns the warning about it: a worker whose every slot waits for a result from its own queues gets
nothing done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

logger = logging.getLogger(__name__)

#: How long all slots must wait before the warning.
STUCK_SECONDS = 5.0


class WaitingParents:
    """Counts the waiting tasks of one worker.

    Args:
        slots: How many slots the worker has.
        queues: The queues that it serves; results from other queues are other workers' work.
    """

    def __init__(self, slots: int, queues: Collection[str]) -> None:
        self._slots = slots
        self._queues = frozenset(queues)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def began(self, run: object, queue: str) -> None:
        """A run starts to wait for a result from this queue; called in any thread."""
        if queue in self._queues:
            self._soon(run, 1)

    def ended(self, run: object, queue: str) -> None:
        """A run no longer waits for that result."""
        if queue in self._queues:
            self._soon(run, -1)

    def _soon(self, run: object, change: int) -> None:
        with suppress(RuntimeError):  # the loop is closed, so no one waits any more
            self._loop.call_soon_threadsafe(self._count, id(run), change)

    def _count(self, run: int, change: int) -> None:
        self._waiting[run] = self._waiting.get(run, 0) + change
        if not self._waiting[run]:
            del self._waiting[run]
        is_stuck = len(self._waiting) >= self._slots
        if is_stuck and self._timer is None:
            self._timer = self._loop.call_later(STUCK_SECONDS, self._warn)
        elif not is_stuck and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _warn(self) -> None:
        logger.warning(
            "every slot is taken by a task that waits for the result of another task on the same "
            "queues, which may have no slot to run in: give the awaited tasks a queue and a worker "
            "of their own, or raise the concurrency",
            extra={"concurrency": self._slots, "queues": ",".join(sorted(self._queues))},
        )
