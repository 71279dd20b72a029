"""Loads this package's SQL scripts."""

from __future__ import annotations

import pkgutil
import sqlite3
from functools import cache


@cache
def statements(name: str) -> tuple[str, ...]:
    """A script's statements one by one, so that they can run in one transaction."""
    found = [""]
    for line in (pkgutil.get_data(__package__, name) or b"").decode().splitlines(keepends=True):
        found[-1] += line
        if sqlite3.complete_statement(found[-1]):
            found.append("")
    return tuple(found[:-1])
