"""Connections that may lead through a pooler in transaction mode.

Owns the rule that no statement is taken for another: behind a pooler, the name of a prepared
statement may meet a server connection on which another process gave that name to another statement.
"""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

import asyncpg

_TOKEN = uuid4().hex[:12]

#: The types that asyncpg first asks the server about, in several statements that belong together.
_TYPES = "SELECT $1::bytea[], $2::float8[], $3::int2[], $4::int4[], $5::int8[], $6::bool[]"


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Makes names unique across processes: asyncpg's own are numbers counted in each process."""

    def _get_unique_id(self, prefix: str) -> str:
        own: str = super()._get_unique_id(prefix)
        return f"{own}_{_TOKEN}_{os.getpid():x}"


async def connect(**options: Any) -> Any:
    """As `asyncpg.connect`."""
    return await asyncpg.connect(**options, connection_class=_Connection)


async def learn_types(connection: Any) -> None:
    """Let asyncpg ask about types now, in a transaction, which a pooler keeps on one connection.

    Otherwise it would switch off JIT compilation on one connection and run its query on another,
    where compiling takes seconds.
    """
    async with connection.transaction():
        await connection.fetch(_TYPES, [], [], [], [], [], [])


async def fetch_in_transaction(connection: Any, sql: str, arguments: Any) -> Any:
    """Run a statement whose parts a pooler must keep on one connection."""
    async with connection.transaction():
        return await connection.fetch(sql, *arguments)
