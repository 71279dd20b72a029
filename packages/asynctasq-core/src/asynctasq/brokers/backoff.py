"""Waiting times between attempts to reach a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import uniform


@dataclass(slots=True)
class Backoff:
    """Waiting times between attempts to reach a server: doubling, with jitter.

    Attributes:
        first_seconds: Upper bound of the first wait.
        most_seconds: Upper bound of any wait.
    """

    first_seconds: float = 0.05
    most_seconds: float = 2.0
    _failures: int = field(default=0, init=False)

    def next(self) -> float:
        """Seconds to wait now; each call doubles the bound until `reset`."""
        bound = min(self.most_seconds, self.first_seconds * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        return uniform(bound / 2, bound)

    def reset(self) -> None:
        """Start over after a success."""
        self._failures = 0
