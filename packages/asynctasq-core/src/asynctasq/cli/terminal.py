"""How a worker's log records look on a terminal: short, in colour, one line per finished run."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import click

from .log_lines import KeyValueLines, extra_fields, printable

_COLOURS = {
    "succeeded": "green",
    "skipped": "yellow",
    "retried": "yellow",
    "postponed": "yellow",
    "released": "yellow",
    "cancelled": "yellow",
    "dead": "red",
}


def is_watched() -> bool:
    """Whether someone may be watching: stderr is a terminal."""
    return sys.stderr.isatty()


class TerminalLines(logging.Formatter):
    """`time outcome task seconds` for the end of each run; other records as plain text."""

    def __init__(self) -> None:
        super().__init__()
        self._others = KeyValueLines()
        self._is_coloured = not os.environ.get("NO_COLOR")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        if record.msg != "task %s" or not isinstance(record.args, tuple):
            return self._others.format(record)
        outcome, fields = str(record.args[0]), extra_fields(record)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        word = self._styled(f"{outcome:9}", fg=_COLOURS.get(outcome))
        line = f"{self._styled(clock, dim=True)} {word} {_what(fields)}"
        if record.exc_info:
            line += "\n" + printable(self.formatException(record.exc_info), lines=True)
        return line

    def _styled(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._is_coloured else text


def _what(fields: dict[str, Any]) -> str:
    parts = [printable(str(fields.get("task") or fields.get("id")))]
    if fields.get("seconds"):
        parts.append(f"{fields['seconds']:.3f} s")
    if fields.get("attempt", 1) > 1:
        parts.append(f"attempt {fields['attempt']}")
    if fields.get("error"):
        parts.append(printable(str(fields["error"])))
    if "delay_seconds" in fields:
        parts.append(f"(again in {fields['delay_seconds']:g} s)")
    return "  ".join(parts)
