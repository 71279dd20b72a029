"""Text forms of single values that msgpack has no form for.

Each is an extension type whose body is a UTF-8 string. Dates and times follow ISO 8601; a zone's
key follows the offset in brackets, as in RFC 9557, and `!` marks the second of two equal local
times. Integers are hexadecimal because hexadecimal parses in linear time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

M = TypeVar("M", datetime, time)

DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID_, INT = 2, 3, 4, 5, 6, 7, 8


def _moment(value: datetime | time) -> str:
    zone = value.tzinfo
    key = zone.key if isinstance(zone, ZoneInfo) else None
    text = value.isoformat()
    return text + (f"[{key}]" if key else "") + ("!" if value.fold else "")


def _zoned(text: str) -> tuple[str, ZoneInfo | None, int]:
    fold = int(text.endswith("!"))
    text, _, key = text.removesuffix("!").partition("[")
    return text, ZoneInfo(key.removesuffix("]")) if key else None, fold


def _from_moment(cls: type[M], text: str) -> M:
    text, zone, fold = _zoned(text)
    value = cls.fromisoformat(text)
    if zone is not None:
        value = value.replace(tzinfo=zone)
    return value.replace(fold=fold) if fold else value


def _timedelta(text: str) -> timedelta:
    days, seconds, microseconds = text.split(":")
    return timedelta(int(days), int(seconds), int(microseconds))


#: Extension code and function to text, by exact type.
ENCODERS: dict[type, tuple[int, Callable[[Any], str]]] = {
    datetime: (DATETIME, _moment),
    date: (DATE, date.isoformat),
    time: (TIME, _moment),
    timedelta: (TIMEDELTA, lambda v: f"{v.days}:{v.seconds}:{v.microseconds}"),
    Decimal: (DECIMAL, str),
    UUID: (UUID_, str),
    int: (INT, hex),
}

#: Function from text, by extension code.
DECODERS: dict[int, Callable[[str], object]] = {
    DATETIME: partial(_from_moment, datetime),
    DATE: date.fromisoformat,
    TIME: partial(_from_moment, time),
    TIMEDELTA: _timedelta,
    DECIMAL: Decimal,
    UUID_: UUID,
    INT: lambda text: int(text, 16),
}
