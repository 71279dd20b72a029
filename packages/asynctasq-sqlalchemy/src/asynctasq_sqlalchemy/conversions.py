"""Converts plain values as columns of another type would."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID


def converted(value: Any, expected: type) -> Any:
    """A plain value as a database returns it from a column of this type.

    Raises:
        TypeError: The column cannot hold values of this type.
        ValueError: The column cannot hold this value.
        ArithmeticError: Likewise.
    """
    if type(value) is not expected:
        found = _CONVERSIONS.get((type(value), expected))
        if found is None:
            raise TypeError(f"{type(value).__name__} instead of {expected.__name__}")
        value = found(value)
    if value != value:
        raise ValueError("not a number")
    return value


def _whole(value: Any) -> int:
    number = int(value)
    if number != value:
        raise ValueError("the value does not fit")
    return number


_CONVERSIONS: dict[tuple[type, type], Callable[[Any], Any]] = {
    (str, int): int,
    (float, int): _whole,
    (Decimal, int): _whole,
    (int, bool): lambda value: {0: False, 1: True}[value],
    (int, str): str,
    (UUID, str): str,
    (int, float): float,
    (Decimal, float): float,
    (str, float): float,
    (int, Decimal): Decimal,
    (float, Decimal): lambda value: Decimal(repr(value)),
    (str, Decimal): Decimal,
    (str, UUID): UUID,
    (str, datetime): datetime.fromisoformat,
    (date, datetime): lambda value: datetime.combine(value, time()),
    (str, date): date.fromisoformat,
    (datetime, date): datetime.date,
    (str, time): time.fromisoformat,
}
