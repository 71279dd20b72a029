"""Statements that reach a database, for tests that count them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

_QUERY = re.compile(r"\bSELECT\b.*\bFROM\b", re.IGNORECASE | re.DOTALL)


def queries(statement: str) -> bool:
    """Whether a statement reads rows of a table."""
    return _QUERY.search(statement) is not None and "INSERT INTO" not in statement.upper()


@contextmanager
def logged(logger_name: str) -> Iterator[list[str]]:
    """A logger's messages at all levels, for ORMs that log their statements.

    Args:
        logger_name: Such as `"peewee"` or `"tortoise.db_client"`.
    """
    seen: list[str] = []
    logger, listener = logging.getLogger(logger_name), _Listener(seen)
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield seen
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


class _Listener(logging.Handler):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.append(record.getMessage())
