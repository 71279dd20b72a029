"""Brokers in PostgreSQL, closed when their test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from asynctasq_postgres import Config
from asynctasq_postgres.broker import PostgresBroker

OpenPostgres = Callable[[], PostgresBroker]


@asynccontextmanager
async def postgres_brokers(config: Config) -> AsyncIterator[OpenPostgres]:
    """What opens any number of brokers of one configuration."""
    opened: list[PostgresBroker] = []

    def open_one() -> PostgresBroker:
        opened.append(PostgresBroker(config))
        return opened[-1]

    yield open_one
    for broker in opened:
        await broker.close()
