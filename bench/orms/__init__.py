"""One module per ORM: its model and tasks, its rows, its hand-written queries, its query count.

A module defines `DISTRIBUTIONS`, `queries`, the tasks `one` and `many`, `connect`, `make_rows`,
`fetch` (several rows with one query, as a careful programmer writes it), `get` (one row), `close`.
"""

from __future__ import annotations

import asyncio
import time


class Meter:
    """When the tasks of a run start, in this process.

    Attributes:
        done: Set by the last one.
    """

    def __init__(self) -> None:
        self.expect(1)

    def expect(self, n: int) -> None:
        """A run of `n` tasks follows."""
        self._left = n
        self._first = self._last = 0.0
        self.done = asyncio.Event()

    def tick(self) -> None:
        """A task starts."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._left -= 1
        if not self._left:
            self.done.set()

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return self._last - self._first

    @property
    def last(self) -> float:
        """When the last one started, by `time.perf_counter`."""
        return self._last


meter = Meter()
