"""Runs core's statements on Django's connections, in an open transaction or in its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asynctasq import Database, Run, Statement, uninterrupted
from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .lanes import Lane, give_back_loader, take_loader

_DIALECTS: dict[str, Any] = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


def database_of(connection: BaseDatabaseWrapper) -> Database | None:
    """The database of a connection; `None` if core's statements do not fit its kind."""
    dialect = _DIALECTS.get(connection.vendor)
    alias = connection.alias
    return None if dialect is None else Database(alias, dialect, alias)


def databases() -> Iterator[Database]:
    """Databases of the settings in which `DATABASE_ROUTERS` allow this app's tables."""
    for alias in connections.settings:
        database = database_of(connections[alias])
        if database is not None and router.allow_migrate(alias, "asynctasq_django"):
            yield database


def run(connection: BaseDatabaseWrapper, statement: Statement) -> Sequence[Sequence[Any]]:
    """Run a statement; returns the rows of a SELECT."""
    with connection.cursor() as cursor:
        cursor.execute(statement.in_style("format"), list(statement.parameters))
        return cursor.fetchall() if cursor.description else ()


@asynccontextmanager
async def own_transaction(database: Database) -> AsyncIterator[Run]:
    """Open a transaction on the connection of a thread that no task uses meanwhile."""
    lane = take_loader()
    block = transaction.atomic(using=database.handle)

    async def in_lane(statement: Statement) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]]
        rows = await _in(lane, lambda: run(connections[database.handle], statement))
        return rows

    try:
        await _in(lane, block.__enter__)
        try:
            yield in_lane
        except BaseException as e:
            await uninterrupted(_in(lane, block.__exit__, type(e), e, e.__traceback__))
            raise
        await uninterrupted(_in(lane, block.__exit__, None, None, None))
    finally:
        give_back_loader(lane)


async def _in(lane: Lane, function: Any, *args: Any) -> Any:
    return await asyncio.wrap_future(lane.submit(function, *args))
