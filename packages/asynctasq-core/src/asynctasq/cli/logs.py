"""How log records look on the command line; the library itself configures no logging.

Owns the rule that the application's own configuration wins, whenever it is made: if a logger or one
of its parents has a handler of the application's, the command line writes nothing.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from ..tasks.log_filter import TaskLogFilter
from .log_lines import JsonLines, KeyValueLines
from .terminal import TerminalLines

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json", "terminal")


def configure(level: str, form: str) -> None:
    """Send asynctasq's own records of this level and above to stderr, one line each.

    Args:
        level: One of `LEVELS`.
        form: `text` for `key=value` after the message, `json` for one object per line, `terminal`
            for a person at a terminal.
    """
    output = _Output()
    output.setFormatter(_formatter(form))
    output.addFilter(TaskLogFilter())
    logging.getLogger().addHandler(output)
    ours = logging.getLogger("asynctasq")
    if ours.level == logging.NOTSET and level.upper() != "WARNING":
        ours.setLevel(level.upper())


def _formatter(form: str) -> logging.Formatter:
    if form == "terminal":
        return TerminalLines()
    return JsonLines() if form == "json" else KeyValueLines()


def configure_application(level: str) -> None:
    """Let the application's records of this level pass, too, unless it has configured logging.

    Call this once its modules are imported.
    """
    root = logging.getLogger()
    if root.level == logging.WARNING and not any(map(_is_of_application, root.handlers)):
        root.setLevel(level.upper())


class _Output(logging.StreamHandler[TextIO]):
    """Writes records that no handler of the application gets, as Python's last resort does."""

    @property
    def stream(self) -> TextIO:
        """What stderr is now: while a bar is shown, it stays below what is written."""
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """Let the base class set what is looked up each time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it has been handled."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(map(_is_of_application, logger.handlers)):
                return
            logger = logger.parent
        super().emit(record)


def _is_of_application(handler: logging.Handler) -> bool:
    return not isinstance(handler, _Output | logging.NullHandler)
