"""Timetables: the ticks of a schedule, as whole milliseconds since 1970.

Owns the rule that ticks depend on nothing but the timetable: they come out the same, whoever
computes them and whenever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .wall_clock import check_expression, next_match

_MILLISECOND = timedelta(milliseconds=1)
_SHORTEST = timedelta(milliseconds=100)
_LONGEST = timedelta(days=36_525)


class Timetable(Protocol):
    """When the ticks of a schedule are."""

    def next_after(self, tick: int) -> int | None:
        """The first tick later than this; `None` if there is none."""

    def latest(self, since: int, until: int) -> int:
        """The last tick up to `until`; there must be at least one after `since`."""

    def parts(self) -> list[Any]:
        """The parts from which `timetable_of` rebuilds it."""


@dataclass(frozen=True, slots=True)
class ByCron:
    """The matches of a cron expression on the clocks of a time zone."""

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise TypeError(f"cron must be a text, not {type(self.expression).__name__}")
        check_expression(self.expression)
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as e:
            raise ValueError(
                f"no time zone {self.timezone!r:.100}; where the system knows none at all, "
                f"install the package tzdata"
            ) from e
        if self.next_after(0) is None:
            raise ValueError(f"{self.expression!r:.200} never matches")

    def __str__(self) -> str:
        return f"{self.expression} {self.timezone}"

    def next_after(self, tick: int) -> int | None:
        """The next match."""
        found = next_match(self.expression, ZoneInfo(self.timezone), tick // 1000)
        return None if found is None else found * 1000

    def latest(self, since: int, until: int) -> int:
        """The last match, found by looking back ever further, not through all that was missed."""
        back, tick = 60_000, None
        while tick is None or tick > until:
            tick, back = self.next_after(max(since, until - back)), back * 4
        while (later := self.next_after(tick)) is not None and later <= until:
            tick = later
        return tick

    def parts(self) -> list[Any]:
        """As `Timetable.parts`."""
        return ["cron", self.expression, self.timezone]


@dataclass(frozen=True, slots=True)
class ByInterval:
    """The multiples of an interval since the start of 1970 UTC: hourly means on the hour."""

    interval_ms: int

    def __post_init__(self) -> None:
        if not _SHORTEST <= self.interval_ms * _MILLISECOND <= _LONGEST:
            raise ValueError("every must be from 0.1 seconds to 100 years")

    def __str__(self) -> str:
        return f"every {self.interval_ms * _MILLISECOND}"

    def next_after(self, tick: int) -> int:
        """The next multiple."""
        return (tick // self.interval_ms + 1) * self.interval_ms

    def latest(self, since: int, until: int) -> int:
        """The last multiple."""
        return until // self.interval_ms * self.interval_ms

    def parts(self) -> list[Any]:
        """As `Timetable.parts`."""
        return ["every", self.interval_ms]


@dataclass(frozen=True, slots=True)
class Once:
    """A single tick, which is made however late."""

    at_ms: int

    def __str__(self) -> str:
        return f"at {datetime.fromtimestamp(self.at_ms / 1000).astimezone().isoformat()}"

    def next_after(self, tick: int) -> int | None:
        """The moment itself, until it has passed."""
        return self.at_ms if tick < self.at_ms else None

    def latest(self, since: int, until: int) -> int:
        """The moment itself."""
        return self.at_ms

    def parts(self) -> list[Any]:
        """As `Timetable.parts`."""
        return ["at", self.at_ms]


def timetable(
    cron: str | None, timezone: str | None, every: timedelta | None, at: datetime | None
) -> Timetable:
    """The timetable given in exactly one of these ways.

    Raises:
        ValueError: None or several were given, or the one given is not a valid timetable.
        TypeError: A value has the wrong type.
    """
    if (cron is not None) + (every is not None) + (at is not None) != 1:
        raise ValueError("give exactly one of cron, every and at")
    if cron is not None:
        return ByCron(cron, "UTC" if timezone is None else timezone)
    if timezone is not None:
        raise ValueError("a timezone goes with cron only")
    if at is not None:
        return Once(milliseconds(at))
    if not isinstance(every, timedelta):
        raise TypeError(f"every must be a timedelta, not {type(every).__name__}")
    if every % _MILLISECOND:
        raise ValueError("every must be whole milliseconds")
    return ByInterval(every // _MILLISECOND)


def milliseconds(moment: datetime) -> int:
    """The moment, which must have a time zone, in milliseconds since 1970."""
    if not isinstance(moment, datetime):
        raise TypeError(f"at must be a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ValueError("at must be an aware datetime; for local time write moment.astimezone()")
    return round(moment.timestamp() * 1000)


def timetable_of(parts: Sequence[Any]) -> Timetable:
    """The timetable with these parts.

    Raises:
        ValueError, TypeError: They make no timetable.
    """
    match parts:
        case ["cron", str(expression), str(zone)]:
            return ByCron(expression, zone)
        case ["every", int(interval_ms)]:
            return ByInterval(interval_ms)
        case ["at", int(at_ms)]:
            return Once(at_ms)
    raise ValueError("no timetable")
