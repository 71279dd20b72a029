"""Cron expressions on the clocks of zones that are set forward and back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from asynctasq.tasks.wall_clock import next_match

ZONES = ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kolkata"]


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def matches(expression: str, zone: str, since: str, until: str) -> list[str]:
    """The matches after `since`, up to `until`, as local times with their offsets."""
    found: list[str] = []
    after: int | None = instant(since)
    while after is not None:
        after = next_match(expression, ZoneInfo(zone), after)
        if after is None or after > instant(until):
            break
        shown = datetime.fromtimestamp(after, UTC).astimezone(ZoneInfo(zone))
        found.append(shown.strftime("%d %H:%M:%S %z"))
    return found


def test_a_time_that_the_clocks_skip_matches_when_they_have_been_set_forward() -> None:
    day = ("2026-03-28T12:00:00+00:00", "2026-03-30T12:00:00+00:00")
    found = matches("30 2 * * *", "Europe/Berlin", *day)
    assert found == ["29 03:00:00 +0200", "30 02:30:00 +0200"]
    day = ("2026-10-03T00:00:00+00:00", "2026-10-05T00:00:00+00:00")
    found = matches("10 2 * * *", "Australia/Lord_Howe", *day)
    assert found == ["04 02:30:00 +1100", "05 02:10:00 +1100"]


def test_several_times_that_are_skipped_together_match_once() -> None:
    day = ("2026-03-28T12:00:00+00:00", "2026-03-29T12:00:00+00:00")
    assert matches("0,20,40 2 * * *", "Europe/Berlin", *day) == ["29 03:00:00 +0200"]


def test_a_time_that_the_clocks_show_twice_matches_the_first_time() -> None:
    day = ("2026-10-24T12:00:00+00:00", "2026-10-25T12:00:00+00:00")
    assert matches("30 2 * * *", "Europe/Berlin", *day) == ["25 02:30:00 +0200"]
    day = ("2026-04-04T00:00:00+00:00", "2026-04-05T00:00:00+00:00")
    assert matches("45 1 * * *", "Australia/Lord_Howe", *day) == ["05 01:45:00 +1100"]


def test_it_does_not_match_again_for_whoever_asks_while_it_is_shown_again() -> None:
    day = ("2026-10-25T02:10:00+01:00", "2026-10-26T12:00:00+01:00")
    assert matches("30 2 * * *", "Europe/Berlin", *day) == ["26 02:30:00 +0100"]


def test_an_expression_with_a_star_follows_what_the_clocks_show() -> None:
    day = ("2026-10-25T00:50:00+02:00", "2026-10-25T03:10:00+01:00")
    assert matches("0,30 * * * *", "Europe/Berlin", *day) == [
        "25 01:00:00 +0200",
        "25 01:30:00 +0200",
        "25 02:00:00 +0200",
        "25 02:30:00 +0200",
        "25 02:00:00 +0100",
        "25 02:30:00 +0100",
        "25 03:00:00 +0100",
    ]
    day = ("2026-03-29T00:50:00+01:00", "2026-03-29T03:40:00+02:00")
    assert matches("*/30 1,2,3 * * *", "Europe/Berlin", *day) == [
        "29 01:00:00 +0100",
        "29 01:30:00 +0100",
        "29 03:00:00 +0200",
        "29 03:30:00 +0200",
    ]


def test_half_an_hour_of_change_hides_no_match() -> None:
    day = ("2026-04-05T01:50:00+11:00", "2026-04-05T02:40:00+10:30")
    assert matches("*/15 1,2 * * *", "Australia/Lord_Howe", *day) == [
        "05 01:30:00 +1030",
        "05 01:45:00 +1030",
        "05 02:00:00 +1030",
        "05 02:15:00 +1030",
        "05 02:30:00 +1030",
    ]


def test_seconds_come_first_where_there_are_six_fields() -> None:
    minute = ("2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00")
    assert matches("*/20 * * * * *", "UTC", *minute) == [
        "01 00:00:20 +0000",
        "01 00:00:40 +0000",
        "01 00:01:00 +0000",
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_a_time_with_a_star_is_what_the_clocks_show(zone: str) -> None:
    """Asked of every tenth minute of the year, and not of any rule about changes."""
    year = ("2026-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00")
    shown = [
        moment.strftime("%d %H:%M:%S %z")
        for minute in range(10, 365 * 24 * 60 + 1, 10)
        for moment in [
            datetime.fromtimestamp(instant(year[0]) + minute * 60, UTC).astimezone(ZoneInfo(zone))
        ]
        if moment.minute in (0, 20, 40) and moment.hour in (1, 2)
    ]
    assert matches("*/20 1,2 * * *", zone, *year) == shown


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", ["15 2 * * *", "45 1 * * *", "0 0 * * *"])
def test_a_time_of_day_matches_once_on_each_day_of_a_year(zone: str, expression: str) -> None:
    year = ("2025-12-31T23:59:59+00:00", "2026-12-31T23:59:59+00:00")
    days = {date(2026, 1, 1) + timedelta(days=n) for n in range(-1, 366)}
    found = matches(expression, zone, *year)
    assert len(found) == 365
    assert {int(text[:2]) for text in found} == {day.day for day in days}


def test_what_never_comes_has_no_match() -> None:
    assert next_match("0 0 30 2 1", ZoneInfo("UTC"), 0) is not None
    assert next_match("0 0 29 2 *", ZoneInfo("Europe/Berlin"), instant("2097-01-01T00:00:00Z")) == (
        instant("2104-02-29T00:00:00+01:00")
    )
