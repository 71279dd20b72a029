"""Log records as lines, for people and for programs, without terminal control sequences."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record besides its message."""
    return {k: v for k, v in vars(record).items() if k not in _STANDARD and v is not None}


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"


def _traceback(form: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback; for a record from a child process, the text that came with it."""
    return form.formatException(record.exc_info) if record.exc_info else record.exc_text or ""


class KeyValueLines(logging.Formatter):
    """`time LEVEL logger: message key=value ...`, with a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        extra = "".join(f" {k}={_word(v)}" for k, v in extra_fields(record).items())
        message = printable(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{extra}"
        if trace := _traceback(self, record):
            line += "\n" + printable(trace, lines=True)
        return line


class JsonLines(logging.Formatter):
    """One JSON object per record, with the extra fields beside the standard ones."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **extra_fields(record),
        }
        if trace := _traceback(self, record):
            fields["traceback"] = trace
        return json.dumps(fields, default=str)


def _word(value: object) -> str:
    """A value as one word: quoted if it has spaces, quotes or line ends."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else printable(json.dumps(text, ensure_ascii=False))


def printable(text: str, *, lines: bool = False) -> str:
    """The text with control characters, which a terminal would obey, escaped, as in `\\x1b`.

    Args:
        lines: Keep line ends and tabs.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
