"""A clock that a test moves."""

from __future__ import annotations

import time
from math import inf


class Clock:
    """Unix time that stands still until moved, so that a test does not depend on its own pace.

    Attributes:
        until: How far the current run may move it.
    """

    def __init__(self) -> None:
        self.until = self._now = time.time()

    def __call__(self) -> float:
        return self._now

    def of(self, moment: float) -> float:
        """Convert a moment of real time: equally far from now on this clock."""
        return moment - time.time() + self._now

    def move_to(self, moment: float) -> None:
        """Move the clock to this time, unless it is later already."""
        if moment < inf:
            self._now = max(self._now, moment)
