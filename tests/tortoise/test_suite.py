"""The conformance suite of adapters, on every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import psycopg
import pytest
from asynctasq_tortoise.suite import TestTortoise as Suite

from .conftest import POSTGRES, empty_database, make_database, with_scheme


class TestSQLite(Suite):
    """As it ships."""


Servers = Callable[[str], Mapping[str, str]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Two databases of a kind, made once, since that takes a server long."""
    made: dict[str, Mapping[str, str]] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Mapping[str, str]:
            if kind not in made:
                folder = tmp_path_factory.mktemp(kind)
                both = [contextmanager(make_database)(kind, folder) for _ in range(2)]
                default, other = [stack.enter_context(database) for database in both]
                made[kind] = {"default": default, "other": other}
            return made[kind]

        yield get


class _OnServer(Suite):
    kind: ClassVar[str]
    parameters: ClassVar[str] = ""

    @pytest.fixture
    def urls(self, servers: Servers) -> Mapping[str, str]:
        urls = servers(self.kind)
        for url in urls.values():
            empty_database(url)
        self.name = urls["default"].rpartition("/")[2]
        return {name: url + self.parameters for name, url in urls.items()}


class TestAsyncpg(_OnServer):
    """PostgreSQL, with connections counted by the server."""

    kind = "asyncpg"
    parameters = "?minsize=3&maxsize=3"
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
    parameters = "?minsize=3&maxsize=3&timeout=1"


class TestMySQL(_OnServer):
    """MariaDB."""

    kind = "mysql"
