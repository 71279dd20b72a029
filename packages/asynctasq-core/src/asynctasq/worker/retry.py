"""When a failed task runs again."""

from __future__ import annotations

from random import random
from typing import Literal

from ..durations import LONGEST_SECONDS

#: Longest delay that doubling may reach.
LONGEST_DELAY_SECONDS = 86_400.0

#: Longest wait for a database that cannot answer.
LONGEST_POSTPONEMENT_SECONDS = 10.0


def retry_delay(
    attempt: int, first_delay: float, strategy: Literal["exponential", "fixed"], jitter: bool
) -> float:
    """Seconds from the failure of `attempt` (1 for the first run) to the next run.

    Jitter adds a random part of up to half the delay, so that calls that failed together do not
    come back together; it never shortens the delay.
    """
    delay = first_delay
    if strategy == "exponential":
        delay = min(first_delay * 2.0 ** min(attempt - 1, 60), max(LONGEST_DELAY_SECONDS, delay))
    return min(delay * (1 + random() / 2), LONGEST_SECONDS) if jitter else delay


def postponement_delay(times: int) -> float:
    """Seconds to wait for a database that could not answer for the `times`-th time in a row."""
    return min(LONGEST_POSTPONEMENT_SECONDS, 0.5 * 2.0 ** min(times - 1, 10)) * (1 - random() / 4)
