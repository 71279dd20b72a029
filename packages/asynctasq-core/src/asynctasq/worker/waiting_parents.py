"""Tasks that wait for the results of others, and may leave these no slot to run in.

Owns the warning: a worker whose every slot waits for a result of its own queues gets nothing done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

logger = logging.getLogger(__name__)

#: How long all slots wait before it is said.
STUCK_SECONDS = 5.0


class WaitingParents:
    """Counts the waiting tasks of one worker.

    Args:
        slots: How many the worker has.
        queues: Those that it serves; a result of another queue is another worker's work.
    """

    def __init__(self, slots: int, queues: Collection[str]) -> None:
        self._slots = slots
        self._queues = frozenset(queues)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def began(self, run: object, queue: str) -> None:
        """A run waits for a result of this queue; called in any thread."""
        if queue in self._queues:
            self._soon(run, 1)

    def ended(self, run: object, queue: str) -> None:
        """A run no longer waits for that result."""
        if queue in self._queues:
            self._soon(run, -1)

    def _soon(self, run: object, change: int) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
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
