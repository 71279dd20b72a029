"""The transaction of an atomic task: an atomic block in the thread of its ORM calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asgiref.sync import sync_to_async
from asynctasq import (
    ConfigurationError,
    Ref,
    ReferenceUnavailable,
    Statement,
    Transaction,
    uninterrupted,
)
from django.db import DEFAULT_DB_ALIAS, connections, router

from .loading import database_of as alias_of
from .loading import gave_way
from .outbox import database_of, own_transaction, run
from .scopes import current_scope


@asynccontextmanager
async def atomic_transaction(target: object, refs: Sequence[Ref]) -> AsyncIterator[Transaction]:
    """Open an atomic block around the task, on the connection that its thread uses."""
    alias = _alias(target, refs)
    if (database := database_of(connections[alias])) is None:
        raise ConfigurationError(
            f"an atomic task needs PostgreSQL, MySQL, MariaDB or SQLite, which database {alias!r} "
            f"is not"
        )
    scope = current_scope("an atomic task")

    async def run_in(statement: Statement) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]]
        is_look = statement.sql.startswith("SELECT")
        if is_look and database.dialect == "sqlite" and not _locks_at_begin(alias):
            # Look in a transaction of its own: after a read, SQLite would refuse this one's first
            # write once another transaction has written.
            async with own_transaction(database) as look:
                return await look(statement)
        rows = await sync_to_async(run)(scope.connections[alias], statement)
        return rows

    try:
        await sync_to_async(scope.begin)(alias)
        yield Transaction(run_in, scope.connections[alias], database)
        await uninterrupted(scope.end_transactions(None))
    except Exception as e:
        if gave_way(e):
            raise ReferenceUnavailable(
                f"database {alias!r} ended the transaction of the task ({type(e).__name__})"
            ) from e
        raise


def _locks_at_begin(alias: str) -> bool:
    """Whether transactions on an SQLite file take the write lock when they begin."""
    mode = (connections.settings[alias].get("OPTIONS") or {}).get("transaction_mode")
    return str(mode).upper() in ("IMMEDIATE", "EXCLUSIVE")


def _alias(target: object, refs: Sequence[Ref]) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, type):
        return router.db_for_write(target)
    aliases = {alias_of(ref) for ref in refs}
    if len(aliases) > 1:
        raise ConfigurationError(
            f"its model instances are of several databases: name one, as in atomic={min(aliases)!r}"
        )
    return aliases.pop() if aliases else DEFAULT_DB_ALIAS
