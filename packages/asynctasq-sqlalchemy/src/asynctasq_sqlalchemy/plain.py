"""Values of exactly the types that travel, from what stands for them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

_MAKE: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    int: int.__int__,
    str: str.__str__,
    float: float.__float__,
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
    Decimal: Decimal,
    UUID: lambda value: UUID(int=value.int),
    datetime: lambda value: datetime.combine(
        date(value.year, value.month, value.day), _time_of(value)
    ),
    date: lambda value: date(value.year, value.month, value.day),
    time: lambda value: _time_of(value),
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
}

#: Types of which a part of a key on the queue is exactly one.
TRAVELLING = frozenset(_MAKE) - {bytearray, memoryview}


def _time_of(value: Any) -> time:
    return time(
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        tzinfo=value.tzinfo,
        fold=value.fold,
    )


def plain(value: Any) -> Any:
    """The value without the subclass that a driver, an enum or a library made of it."""
    cls = type(value)
    if cls in TRAVELLING:
        return value
    make = next((make for base, make in _MAKE.items() if issubclass(cls, base)), None)
    return value if make is None else make(value)


def converted(value: Any, expected: type) -> Any:
    """A plain value as a database gives it back from a column of this type.

    Raises:
        TypeError: The column holds no such values.
        ValueError: This one does not fit.
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
