"""Brokers on a queue file, closed when their test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asynctasq import SQLiteConfig
from asynctasq.brokers.sqlite.broker import SQLiteBroker

OpenSQLite = Callable[[], SQLiteBroker]


@asynccontextmanager
async def sqlite_brokers(path: Path, **options: Any) -> AsyncIterator[OpenSQLite]:
    """What opens any number of brokers on one file."""
    opened: list[SQLiteBroker] = []

    def open_one() -> SQLiteBroker:
        opened.append(SQLiteBroker(SQLiteConfig(path=path, **options)))
        return opened[-1]

    yield open_one
    for broker in opened:
        await broker.close()
