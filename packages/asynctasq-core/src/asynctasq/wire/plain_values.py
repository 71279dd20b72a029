"""The types of which a key on the queue is exactly one, and values of exactly these types.

Choices, enums, database drivers and libraries make values of subclasses. Those compare equal, but
another process may not know their class, and a row must have one key, however it was loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


def _time(value: Any) -> time:
    clock = (value.hour, value.minute, value.second, value.microsecond, value.tzinfo)
    return time(*clock, fold=value.fold)


def _date(value: Any) -> date:
    return date(value.year, value.month, value.day)


#: A subclass stands before the class that it is one of.
_MAKE: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    int: int.__int__,
    str: str.__str__,
    float: float.__float__,
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
    UUID: lambda value: UUID(int=value.int),
    Decimal: Decimal,
    datetime: lambda value: datetime.combine(_date(value), _time(value)),
    date: _date,
    time: _time,
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
}

#: What a key is made of when it travels.
PLAIN_TYPES = frozenset(_MAKE) - {bytearray, memoryview}


def plain_value(value: Any) -> Any:
    """The value as one of exactly `PLAIN_TYPES`; itself if it is an instance of none of them."""
    cls = type(value)
    if cls in PLAIN_TYPES:
        return value
    make = next((make for base, make in _MAKE.items() if issubclass(cls, base)), None)
    return value if make is None else make(value)
