"""Time as a test moves it."""

from __future__ import annotations

import time
from math import inf


class Clock:
    """Unix time that stands still until it is moved, so that a test does not depend on its pace.

    Attributes:
        until: How far the run that goes on may move it.
    """

    def __init__(self) -> None:
        self.until = self._now = time.time()

    def __call__(self) -> float:
        return self._now

    def of(self, moment: float) -> float:
        """What a moment of the real time is here: as far from now."""
        return moment - time.time() + self._now

    def move_to(self, moment: float) -> None:
        """Make it this time, unless it is later already."""
        if moment < inf:
            self._now = max(self._now, moment)
