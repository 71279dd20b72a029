"""When a failed task runs again."""

from __future__ import annotations

from random import random
from typing import Literal, TypeGuard

#: Longest wait that can be asked for, in seconds; about 30 years.
MOST_DELAY_SECONDS = 1e9

#: Longest wait that doubling leads to, in seconds.
LONGEST_DELAY_SECONDS = 86_400.0

#: Longest wait for a database that cannot answer, in seconds.
LONGEST_POSTPONEMENT_SECONDS = 10.0


def retry_delay(
    attempt: int, first_delay: float, strategy: Literal["exponential", "fixed"], jitter: bool
) -> float:
    """Seconds from the failure of `attempt` (1 for the first run) to the next one.

    Jitter takes off a random part of up to half, so that what failed together does not come back
    together.
    """
    delay = first_delay
    if strategy == "exponential":
        delay = min(first_delay * 2.0 ** min(attempt - 1, 60), max(LONGEST_DELAY_SECONDS, delay))
    return delay * (1 - random() / 2) if jitter else delay


def is_delay(value: object) -> TypeGuard[float]:
    """Whether a message can be put off by so many seconds."""
    return isinstance(value, int | float) and 0 <= value <= MOST_DELAY_SECONDS


def postponement_delay(times: int) -> float:
    """Seconds to wait for a database that could not answer for the `times`-th time in a row."""
    return min(LONGEST_POSTPONEMENT_SECONDS, 0.5 * 2.0 ** min(times - 1, 10)) * (1 - random() / 4)
