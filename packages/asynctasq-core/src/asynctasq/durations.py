"""How long anything may be told to wait or to take."""

from __future__ import annotations

from typing import TypeGuard

#: The longest time that can be asked for, about 30 years; brokers count in whole milliseconds.
LONGEST_SECONDS = 1e9

#: What `is_delay` and `is_duration` ask for, in words.
DELAY_RULE = f"seconds, 0 to {LONGEST_SECONDS:,.0f}"
DURATION_RULE = "seconds above 0, or None"


def is_delay(value: object) -> TypeGuard[float]:
    """Whether a message can be put off by so many seconds."""
    return _is_number(value) and 0 <= value <= LONGEST_SECONDS


def is_duration(value: object) -> bool:
    """Whether something can be given so many seconds; `None` is for ever."""
    return value is None or (_is_number(value) and 0 < value <= LONGEST_SECONDS)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
