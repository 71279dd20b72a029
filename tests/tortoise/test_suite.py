"""The conformance suite of adapters, whole on PostgreSQL, and `parts` of it on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import psycopg
import pytest
from asynctasq.testing.adapters.commits import CommitsTests
from asynctasq.testing.adapters.fetching import FetchingTests
from asynctasq.testing.adapters.loading import LoadingTests
from asynctasq.testing.adapters.missing import MissingTests
from asynctasq_tortoise.suite import TestTortoise as Suite

from ..servers import postgres_url
from .conftest import make_database, with_scheme


class TestSQLite(Suite):
    """As it ships."""

    parts = (FetchingTests, MissingTests, CommitsTests)


class _OnServer(Suite):
    kind: ClassVar[str]
    parameters: ClassVar[str] = ""
    name: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def urls(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
        folder = tmp_path_factory.mktemp(cls.kind)
        database = contextmanager(make_database)
        with database(cls.kind, folder) as default, database(cls.kind, folder) as other:
            cls.name = default.rpartition("/")[2]
            yield {"default": default + cls.parameters, "other": other + cls.parameters}


class TestAsyncpg(_OnServer):
    """PostgreSQL, with connections counted by the server."""

    kind = "asyncpg"
    parameters = "?minsize=3&maxsize=3"
    counts_connections = True

    async def connections(self) -> int:
        """Of the default database, as the server counts them."""
        url = with_scheme(postgres_url(), "postgresql", "postgres")
        async with await psycopg.AsyncConnection.connect(url) as connection:
            rows = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [self.name]
            )
            row = await rows.fetchone()
            return row[0] if row else 0


class TestPsycopg(TestAsyncpg):
    """PostgreSQL by its other driver, which waits long for a server that is away."""

    parts = (FetchingTests, MissingTests)
    kind = "psycopg"
    parameters = "?minsize=3&maxsize=3&timeout=1"


class TestMySQL(_OnServer):
    """MariaDB."""

    parts = (FetchingTests, MissingTests, CommitsTests, LoadingTests)
    kind = "mysql"
