"""Numbers and times in a form for people."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def number(value: float) -> str:
    """A number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """A duration in at most two units: `35 ms`, `4.2 s`, `3 min 20 s`, `2 d 4 h`."""
    if not isfinite(seconds):
        return "?"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = int(seconds)
    for place, (size, unit) in enumerate(_UNITS):
        if whole >= size:
            smaller, name = (_UNITS[place + 1]) if place + 1 < len(_UNITS) else (1, "s")
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def moment(seconds: float | datetime | None) -> str:
    """Date and time in UTC; `?` for a number that cannot be a time."""
    found = _datetime(seconds)
    return "" if found is None else f"{found:%Y-%m-%d %H:%M:%S} UTC" if found != _NEVER else "?"


def machine(seconds: float | datetime | None) -> str:
    """A time for the attribute `datetime` of an HTML `time`."""
    found = _datetime(seconds)
    return "" if found is None or found == _NEVER else found.isoformat(timespec="seconds")


_NEVER = datetime.min.replace(tzinfo=UTC)


def _datetime(seconds: float | datetime | None) -> datetime | None:
    if seconds is None or isinstance(seconds, datetime):
        return seconds
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return _NEVER


def dispatched_at(message_id: str) -> float | None:
    """When a call was dispatched, read from the start of its id; `None` if that is not a time."""
    try:
        return int(message_id[:12], 16) / 1000 if len(message_id) == 32 else None
    except ValueError:
        return None


def mark(seconds: float | None) -> str:
    """How bad such a delay is, for a colour and a word beside it."""
    if seconds is None or seconds < 10:
        return "good"
    return "fair" if seconds < 60 else "bad"
