"""Runs core's statements on Tortoise's clients, in an open transaction or in its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asynctasq import Database, Run, Statement

from . import lifecycle
from .blocks import transaction
from .clients import base_client

#: By Tortoise backend: the dialect of its SQL, and the parameter style of its driver.
_BACKENDS: dict[str, tuple[Any, str]] = {
    "asyncpg": ("postgresql", "numeric_dollar"),
    "psycopg": ("postgresql", "format"),
    "mysql": ("mysql", "format"),
    "sqlite": ("sqlite", "qmark"),
}


def databases() -> Iterator[Database]:
    """The databases in Tortoise's configuration."""
    for alias, engine in _engines().items():
        if (known := _BACKENDS.get(engine.rpartition(".")[2])) is not None:
            yield Database(alias, known[0], alias)


def database_of(client: Any) -> Database | None:
    """The database of a client; `None` if core's statements do not fit its kind."""
    known = _BACKENDS.get(_backend(client))
    name = client.connection_name
    return None if known is None else Database(name, known[0], name)


def _engines() -> dict[str, str]:
    """The backend's module by connection, whether initialised or only configured."""
    from tortoise.backends.base.config_generator import expand_db_url, generate_config

    if lifecycle.is_initialised():
        from tortoise.connection import connections

        found = connections.db_config
    elif (config := lifecycle.configured()) is None:
        return {}
    elif config.get("db_url"):
        found = generate_config(config["db_url"], {})["connections"]
    else:
        found = (config.get("config") or config).get("connections", {})
    return {
        alias: (expand_db_url(entry) if isinstance(entry, str) else entry)["engine"]
        for alias, entry in found.items()
    }


def _backend(client: Any) -> str:
    modules = (cls.__module__.split(".") for cls in type(client).__mro__)
    return next((m[2] for m in modules if m[:2] == ["tortoise", "backends"] and len(m) > 2), "")


async def run(client: Any, statement: Statement) -> Sequence[Sequence[Any]]:
    """Run a statement; returns the rows of a SELECT."""
    backend = _backend(client)
    if backend == "mysql":  # aiomysql 0.3.2 cannot escape `bytes` with PyMySQL 1.2 and later
        statement = statement.with_literal_bytes()
    sql, values = statement.in_style(_BACKENDS[backend][1]), list(statement.parameters)
    if sql.startswith("SELECT"):
        return [tuple(row.values()) for row in await client.execute_query_dict(sql, values)]
    if values:
        await client.execute_query(sql, values)
    else:
        await client.execute_script(sql)
    return ()


@asynccontextmanager
async def own_transaction(database: Database) -> AsyncIterator[Run]:
    """Open a transaction on a pooled connection, or on SQLite's only one when it is free."""
    is_made_here = not lifecycle.is_initialised()
    await lifecycle.ensure_initialised()
    try:
        async with transaction(base_client(database.handle)) as client:

            async def run_in(statement: Statement) -> Sequence[Sequence[Any]]:
                return await run(client, statement)

            yield run_in
    finally:
        if is_made_here:
            await lifecycle.close_unless_working()
