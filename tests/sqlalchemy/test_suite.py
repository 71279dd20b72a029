"""The suite of all adapters, on each server, asynchronously and synchronously.

Whole on PostgreSQL, and with synchronous sessions on SQLite; where a class has `parts`, only what
depends on the server or its driver (`--all-parts` runs all of them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from asynctasq.testing.adapters.commits import CommitsTests
from asynctasq.testing.adapters.fetching import FetchingTests
from asynctasq.testing.adapters.loading import LoadingTests
from asynctasq.testing.adapters.missing import MissingTests
from asynctasq_sqlalchemy import for_update
from asynctasq_sqlalchemy.suite import TestSQLAlchemy as AsyncSuite
from asynctasq_sqlalchemy.suite import TestSynchronousSessions as SyncSuite
from sqlalchemy import URL, text

CONNECTIONS = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class TestAioSQLite(AsyncSuite):
    """The embedded database."""

    parts = (FetchingTests, MissingTests, CommitsTests)


class TestSQLite3(SyncSuite):
    """The embedded database in threads."""


class TestAsyncpg(AsyncSuite):
    """PostgreSQL, with connections counted by the server."""

    locking = counts_connections = True
    driver = "postgresql+asyncpg"

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, database_url: Callable[[str], URL]) -> URL:
        return database_url("postgres").set(drivername=cls.driver)

    def lock(self) -> Sequence[Any]:
        return [for_update()]

    async def connections(self) -> int:
        async with self.factory() as session:
            return int(await session.scalar(CONNECTIONS))


class TestPsycopg(TestAsyncpg):
    """PostgreSQL by its other driver."""

    parts = (FetchingTests, MissingTests)
    driver = "postgresql+psycopg"


class TestPsycopgInThreads(SyncSuite):
    """PostgreSQL with synchronous sessions."""

    parts = (FetchingTests, MissingTests)
    locking = counts_connections = True

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, database_url: Callable[[str], URL]) -> URL:
        return database_url("postgres")

    def lock(self) -> Sequence[Any]:
        return [for_update()]

    def connections(self) -> int:
        with self.factory() as session:
            return int(session.scalar(CONNECTIONS))


class TestAiomysql(AsyncSuite):
    """MariaDB."""

    parts = (FetchingTests, MissingTests, CommitsTests, LoadingTests)
    locking = True

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, database_url: Callable[[str], URL]) -> URL:
        return database_url("mysql").set(drivername="mysql+aiomysql")

    def lock(self) -> Sequence[Any]:
        return [for_update()]
