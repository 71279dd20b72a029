"""Ages as people type them: `90s`, `30m`, `12h`, `7d`."""

from __future__ import annotations

from datetime import timedelta

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def age(context: click.Context, option: click.Parameter, text: str | None) -> timedelta | None:
    """Parse the age in an option; a click callback."""
    if text is None:
        return None
    try:
        number = float(text[:-1])
        if not number >= 0:
            raise ValueError("negative, or not a number")
        return timedelta(**{_UNITS[text[-1:]]: number})
    except (ValueError, KeyError, OverflowError) as e:
        raise click.BadParameter(f"{text!r} is not an age such as 90s, 30m, 12h or 7d") from e
