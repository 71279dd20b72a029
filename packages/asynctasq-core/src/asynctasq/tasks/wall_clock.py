"""When a cron expression matches on the clocks of a time zone.

Owns the rules for hours that clocks skip or show twice, which are those of Debian's cron:

* An expression with a fixed minute and hour matches once for each time that it names. A time that
  the clocks skip matches when they are set forward; one that they show twice matches the first
  time.
* An expression whose minute or hour begins with `*` matches whenever the clocks show such a time:
  never if they skip it, and twice if they show it twice.

cronsim finds the matches on a clock without changes. Its own rules for zones are not used: they
assume changes of whole hours, and miss matches if a change is half an hour.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_EPOCH = datetime(1970, 1, 1)
_DAY = 86_400


def check_expression(expression: str) -> None:
    """Raise `ValueError` unless this is a cron expression."""
    try:
        CronSim(expression, _EPOCH)
    except CronSimError as e:
        raise ValueError(f"{expression!r:.200} is not a cron expression: {e}") from e


@lru_cache(maxsize=10_000)  # each tick is asked for several times
def next_match(expression: str, zone: ZoneInfo, after: int) -> int | None:
    """The first match after this time; `None` if there is none within fifty years.

    Args:
        after: Unix time in seconds; the result is one, too.
    """
    minute, hour = expression.split()[-5:-3]
    if minute.startswith("*") or hour.startswith("*"):
        return _next_shown(expression, zone, after)
    return _next_named(expression, zone, after)


def _next_named(expression: str, zone: ZoneInfo, after: int) -> int | None:
    wall = _next_on_wall(expression, after + _offset(zone, after))
    # Skip times that the clocks have jumped over or show again: they are not after `after`.
    while wall is not None and _first_instant(wall, zone) <= after:
        wall = _next_on_wall(expression, wall)
    return None if wall is None else _first_instant(wall, zone)


def _next_shown(expression: str, zone: ZoneInfo, after: int) -> int | None:
    """Go from one change of the zone's offset to the next; between changes, clocks are regular."""
    since, offset = after, _offset(zone, after)
    while (wall := _next_on_wall(expression, after + offset)) is not None:
        change = _first_change(zone, since, wall - offset)
        if change is None:
            return wall - offset
        since, offset = change, _offset(zone, change)
        after = change - 1
    return None


def _next_on_wall(expression: str, wall: int) -> int | None:
    """The first match after this time on a clock without changes, in seconds since 1970."""
    try:
        found = next(CronSim(expression, _EPOCH + timedelta(seconds=wall)), None)
    except OverflowError:  # beyond the year 9999
        return None
    return None if found is None else (found - _EPOCH) // timedelta(seconds=1)


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, UTC).astimezone(zone).utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def _first_instant(wall: int, zone: ZoneInfo) -> int:
    """When the zone's clocks first show this time, or are set forward past it."""
    shown = (_EPOCH + timedelta(seconds=wall)).replace(tzinfo=zone)
    before, after = (shown.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    # In a gap, the old offset gives an instant after the change, the new one an instant before it.
    if before <= after:
        return int(before.timestamp())
    change = _first_change(zone, int(after.timestamp()), int(before.timestamp()))
    assert change is not None
    return change


def _first_change(zone: ZoneInfo, since: int, until: int) -> int | None:
    """The first second after `since`, up to `until`, whose offset differs from that of `since`."""
    offset, low = _offset(zone, since), since
    while low < until:
        high = min(low + _DAY, until)
        if _offset(zone, high) != offset:
            while high - low > 1:
                middle = (low + high) // 2
                if _offset(zone, middle) == offset:
                    low = middle
                else:
                    high = middle
            return high
        low = high
    return None
