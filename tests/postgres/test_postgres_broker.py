"""The PostgreSQL broker keeps every promise of the broker protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from asynctasq import Run, Statement
from asynctasq.testing import BrokerSuite, OpenBroker, OpenTransaction

from .brokers import OpenPostgres


class TestPostgresBroker(BrokerSuite):
    lists = True
    coordinates = True
    polices = True
    remembers = True
    joins_transactions = True
    pauses = True

    @pytest_asyncio.fixture
    async def open_broker(self, open_postgres: OpenPostgres) -> OpenBroker:
        return open_postgres

    @pytest.fixture
    def open_transaction(self, url: str) -> OpenTransaction:
        @asynccontextmanager
        async def begin() -> AsyncIterator[Run]:
            connection = await asyncpg.connect(url)

            async def run(statement: Statement) -> Sequence[Sequence[Any]]:
                sql = statement.in_style("numeric_dollar")
                rows: list[Any] = await connection.fetch(sql, *statement.parameters)
                return rows

            try:
                async with connection.transaction():
                    yield run
            finally:
                await connection.close()

        return begin
