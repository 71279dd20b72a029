"""Work that takes longer than a request, such as retrying many dead letters, with its progress."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import time

logger = logging.getLogger(__name__)

#: How many pieces of work to remember, and how long a request waits in case the work is short.
_MOST, _PATIENCE_SECONDS = 100, 1.0


@dataclass(slots=True)
class Work:
    """A piece of work in this process.

    Attributes:
        title: What it does.
        total: How much there was to do at the start, at most.
        error: Why it ended early.
    """

    title: str
    total: int
    back: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    done: int = 0
    is_over: bool = False
    error: str = ""
    started_at: float = field(default_factory=time)


class Works:
    """The work of this process, current and past."""

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, work_id: str) -> Work | None:
        """The work with this id, if this process is doing it or has done it."""
        return self._works.get(work_id)

    async def begin(
        self, work: Work, do: Callable[[Callable[[int], object]], Awaitable[int]]
    ) -> None:
        """Begin work, and wait for a moment in case it ends.

        Args:
            do: Does the work, reports from time to time how much is done, and returns the total.
        """
        while len(self._works) >= _MOST:
            del self._works[next(iter(self._works))]
        self._works[work.id] = work
        task = asyncio.create_task(_run(work, do))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=_PATIENCE_SECONDS)


async def _run(work: Work, do: Callable[[Callable[[int], object]], Awaitable[int]]) -> None:
    def note(done: int) -> None:
        work.done = done

    try:
        work.done = await do(note)
    except Exception as e:
        logger.exception("work of the dashboard failed", extra={"work": work.title})
        work.error = f"{type(e).__name__}: {e}"
    except asyncio.CancelledError:
        work.error = "the server was stopped"
        raise
    finally:
        work.is_over = True
