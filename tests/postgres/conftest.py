"""A database for each module, and brokers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from asynctasq_postgres import Config
from asynctasq_postgres.broker import PostgresBroker

from .. import servers
from .brokers import OpenPostgres, postgres_brokers


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a database that is removed in the end."""
    with servers.postgres_database("asynctasq_pg") as found:
        yield found


@pytest_asyncio.fixture
async def open_postgres(url: str) -> AsyncIterator[OpenPostgres]:
    """Opens any number of brokers on one schema."""
    async with postgres_brokers(Config(url=url)) as open_one:
        yield open_one


@pytest_asyncio.fixture
async def broker(open_postgres: OpenPostgres) -> PostgresBroker:
    """A broker."""
    return open_postgres()
