"""A database for each module, and brokers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from asynctasq_postgres import Config
from asynctasq_postgres.broker import PostgresBroker

from .. import servers
from .brokers import OpenPostgres, postgres_brokers


def execute(url: str, *statements: Any) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a database that is removed in the end."""
    server = servers.postgres_url()
    name = f"asynctasq_pg_{uuid4().hex[:12]}"
    execute(server, f"CREATE DATABASE {name}")
    # Nothing is to survive the machine.
    execute(server, f"ALTER DATABASE {name} SET synchronous_commit = off")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def open_postgres(url: str) -> AsyncIterator[OpenPostgres]:
    """Opens any number of brokers on one schema."""
    async with postgres_brokers(Config(url=url)) as open_one:
        yield open_one


@pytest_asyncio.fixture
async def broker(open_postgres: OpenPostgres) -> PostgresBroker:
    """A broker."""
    return open_postgres()
