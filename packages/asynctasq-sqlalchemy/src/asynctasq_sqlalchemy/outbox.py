"""Runs core's statements on databases behind engines, in open transactions or in its own.

Owns the form in which each driver takes core's statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, cast

from asynctasq import Database, Run, Statement
from sqlalchemy import Connection, Engine

_DIALECTS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql", "sqlite": "sqlite"}


@cache
def database_of(engine: Engine) -> Database | None:
    """The database behind an engine; `None` if core's statements do not fit its kind."""
    dialect = _DIALECTS.get(engine.dialect.name)
    if dialect is None:
        return None
    name = engine.url.render_as_string(hide_password=True)
    return Database(name, cast(Any, dialect), engine)


def run(connection: Connection, statement: Statement) -> Sequence[Sequence[Any]]:
    """Run one of core's statements; returns the rows of a SELECT."""
    dialect = connection.dialect
    if dialect.driver == "aiomysql":  # 0.3.2 cannot escape `bytes` with PyMySQL 1.2 and later
        statement = statement.with_literal_bytes()
    sql = statement.in_style(dialect.paramstyle)
    result = connection.exec_driver_sql(sql, tuple(statement.parameters))
    return result.all() if result.returns_rows else ()


@asynccontextmanager
async def own_transaction(database: Database) -> AsyncIterator[Run]:
    """Open a transaction on a connection from the engine's pool."""
    engine: Engine = database.handle
    if engine.dialect.is_async:
        from sqlalchemy.ext.asyncio import AsyncEngine

        async with AsyncEngine(engine).begin() as connection:

            async def on_loop(statement: Statement) -> Sequence[Sequence[Any]]:
                return await connection.run_sync(run, statement)

            yield on_loop
        return
    begun = engine.begin()
    own = await asyncio.to_thread(begun.__enter__)

    async def in_thread(statement: Statement) -> Sequence[Sequence[Any]]:
        return await asyncio.to_thread(run, own, statement)

    try:
        yield in_thread
    except BaseException as e:
        await asyncio.shield(asyncio.to_thread(begun.__exit__, type(e), e, e.__traceback__))
        raise
    await asyncio.shield(asyncio.to_thread(begun.__exit__, None, None, None))


def databases() -> Iterator[Database]:
    """The databases behind the session factories of mapped classes, each once."""
    return iter({database: None for _, database in _models_with_databases()})


def model_of(name: str) -> type:
    """A model whose rows are in the database with this name."""
    return next(model for model, database in _models_with_databases() if database.name == name)


def _models_with_databases() -> Iterator[tuple[type, Database]]:
    from .factories import all_factories, open_session, sync_part

    for factory, classes in all_factories().items():
        session = sync_part(open_session(factory))
        for cls in classes:
            database = database_of(session.get_bind(cls).engine)
            if database is not None:
                yield cls, database
        session.close()
