"""Limits on delays and durations."""

from __future__ import annotations

from typing import TypeGuard

#: The longest delay or duration allowed, about 30 years; brokers count in whole milliseconds.
LONGEST_SECONDS = 1e9

#: What `is_delay` and `is_duration` accept, in words.
DELAY_RULE = f"seconds, 0 to {LONGEST_SECONDS:,.0f}"
DURATION_RULE = "seconds above 0, or None"


def is_delay(value: object) -> TypeGuard[float]:
    """Whether the value is a valid delay in seconds."""
    return _is_number(value) and 0 <= value <= LONGEST_SECONDS


def is_duration(value: object) -> bool:
    """Whether the value is a valid duration in seconds; `None` means no limit."""
    return value is None or (_is_number(value) and 0 < value <= LONGEST_SECONDS)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
