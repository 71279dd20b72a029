"""Values of exactly the types that keys are made of."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from asynctasq import PLAIN_TYPES, plain_value

NOW = datetime(2026, 10, 25, 2, 30, 1, 5, UTC, fold=1)
VALUES = [
    *(True, 7, "seven", 7.5, b"7", Decimal("7.50"), UUID(int=7)),
    *(NOW, NOW.date(), NOW.timetz(), timedelta(7, 8, 9)),
]


def of_a_subclass(value: Any) -> Any:
    """The same as an instance of a subclass, as drivers and libraries make it."""
    cls: Any = type("Own", (type(value),), {})
    day = (value.year, value.month, value.day) if isinstance(value, date) else ()
    if isinstance(value, datetime | time):
        clock = (value.hour, value.minute, value.second, value.microsecond, value.tzinfo)
        return cls(*day, *clock, fold=value.fold)
    if isinstance(value, date):
        return cls(*day)
    if isinstance(value, timedelta):
        return cls(value.days, value.seconds, value.microseconds)
    return cls(int=value.int) if isinstance(value, UUID) else cls(value)


@pytest.mark.parametrize("value", VALUES[1:], ids=repr)
def test_an_instance_of_a_subclass_becomes_one_of_the_type(value: Any) -> None:
    plain = plain_value(of_a_subclass(value))
    assert (type(plain), plain) == (type(value), value)
    assert getattr(plain, "fold", 0) == getattr(value, "fold", 0)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_plain_value_stays_itself(value: Any) -> None:
    assert plain_value(value) is value
    assert {type(value) for value in VALUES} == PLAIN_TYPES


def test_members_of_enums_and_buffers_become_plain() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    for given, plain in [(Colour.RED, "red"), (bytearray(b"b"), b"b"), (memoryview(b"m"), b"m")]:
        found = plain_value(given)
        assert (type(found), found) == (type(plain), plain)


def test_anything_else_is_left_alone() -> None:
    for value in (None, (1, 2), object(), [1]):
        assert plain_value(value) is value
