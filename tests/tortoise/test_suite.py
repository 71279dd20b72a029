"""The conformance suite of adapters, on every database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from asynctasq_tortoise.suite import TestTortoise as Suite

from .conftest import POSTGRES, make_database, with_scheme


class TestSQLite(Suite):
    """As it ships."""


class _OnServer(Suite):
    kind: ClassVar[str]
    parameters: ClassVar[str] = ""

    @pytest.fixture
    def urls(self, tmp_path: Path) -> Iterator[Mapping[str, str]]:  # type: ignore[override]
        with ExitStack() as stack:
            make = contextmanager(make_database)
            names = ("default", "other")
            urls = {name: stack.enter_context(make(self.kind, tmp_path)) for name in names}
            self.name = urls["default"].rpartition("/")[2]
            yield {name: url + self.parameters for name, url in urls.items()}


class TestAsyncpg(_OnServer):
    """PostgreSQL, with connections counted by the server."""

    kind = "asyncpg"
    counts_connections = True

    async def connections(self) -> int:
        """Of the default database, as the server counts them."""
        url = with_scheme(POSTGRES, "postgresql", "postgres")
        async with await psycopg.AsyncConnection.connect(url) as connection:
            rows = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [self.name]
            )
            row = await rows.fetchone()
            return row[0] if row else 0


class TestPsycopg(TestAsyncpg):
    """PostgreSQL by its other driver, which waits long for a server that is away."""

    kind = "psycopg"
    parameters = "?timeout=1"


class TestMySQL(_OnServer):
    """MariaDB."""

    kind = "mysql"
