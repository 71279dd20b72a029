"""The transaction of an atomic task: an `in_transaction` block around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from asynctasq import (
    ConfigurationError,
    Ref,
    ReferenceUnavailable,
    Statement,
    Transaction,
    uninterrupted,
)

from .blocks import transaction
from .clients import base_client
from .commits import transaction_of
from .lifecycle import ensure_initialised
from .loading import alias_of
from .outages import gave_way, outage
from .outbox import database_of, run


@asynccontextmanager
async def atomic_transaction(target: object, refs: Sequence[Ref]) -> AsyncIterator[Transaction]:
    """Open a transaction that covers everything this context does on the database."""
    await ensure_initialised()
    parent = base_client(_alias(target, refs))
    if (database := database_of(parent)) is None:
        raise ConfigurationError(
            f"an atomic task needs PostgreSQL, MySQL, MariaDB or SQLite, which connection "
            f"{parent.connection_name!r} is not to"
        )

    try:
        async with _begun(parent) as client:

            async def run_in(statement: Statement) -> Sequence[Sequence[Any]]:
                return await run(client, statement)

            followed = transaction_of(client)
            assert followed is not None
            followed.is_atomic = True
            yield Transaction(run_in, client, database)
            followed.is_atomic = False
            # Commit inside the block, which then only gives the connection back: leaving it must
            # happen in this asyncio task, while the commit must go on if the task is cancelled.
            await uninterrupted(client.commit())
    except Exception as e:
        if (cause := gave_way(e)) is None:
            raise
        raise ReferenceUnavailable(
            f"connection {database.name!r} ended the transaction of the task "
            f"({type(cause).__name__})"
        ) from e


@asynccontextmanager
async def _begun(parent: Any) -> AsyncIterator[Any]:
    """Open the block; a failure to begin counts as an outage."""
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(transaction(parent))
        except Exception as e:
            if (cause := outage(e)) is None:
                raise
            raise ReferenceUnavailable(
                f"connection {parent.connection_name!r} could not answer ({type(cause).__name__})"
            ) from cause
        yield client


def _alias(target: object, refs: Sequence[Ref]) -> str:
    from tortoise.connection import connections

    if isinstance(target, str):
        return target
    if isinstance(target, type):
        return alias_of(target)
    aliases = {alias_of(ref.model_class(), ref) for ref in refs} or set(connections.db_config)
    if len(aliases) > 1:
        raise ConfigurationError(
            f"it is not clear in which of several databases: name a connection, as in "
            f"atomic={min(aliases)!r}"
        )
    return aliases.pop()
