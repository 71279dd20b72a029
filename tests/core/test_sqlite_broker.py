"""The SQLite broker keeps every promise of the broker protocol, and those of its file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from asynctasq.brokers.sqlite import SQLiteBroker
from asynctasq.config import SQLiteConfig
from asynctasq.testing import BrokerSuite, OpenBroker


class TestSQLiteBroker(BrokerSuite):
    @pytest_asyncio.fixture
    async def open_broker(self, tmp_path: Path) -> AsyncIterator[OpenBroker]:
        opened: list[SQLiteBroker] = []

        def open_one() -> SQLiteBroker:
            opened.append(SQLiteBroker(SQLiteConfig(path=tmp_path / "folder" / "queue.db")))
            return opened[-1]

        yield open_one
        for broker in opened:
            await broker.close()
