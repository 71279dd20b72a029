"""Forgets which calls are done, once none of their messages can come again."""

from __future__ import annotations

from time import time

from ..adapters.plugins import Adapter
from ..adapters.statements import Database
from ..sending import tables
from ..sending.outbox import Outbox


class Forgetting:
    """Deletes the rows of atomic tasks that are older than `Config.done_ttl`.

    Args:
        outbox: The application's outbox, which knows the databases.
        ttl_seconds: How long to remember a call.
    """

    name = "done"

    def __init__(self, outbox: Outbox, ttl_seconds: float, interval_seconds: float = 60.0) -> None:
        self.interval_seconds = interval_seconds
        self._outbox = outbox
        self._ttl_seconds = ttl_seconds

    async def turn(self) -> None:
        """Look at each database once."""
        await self._outbox.in_each_database(self._forget, "calls that are done cannot be forgotten")

    async def _forget(self, adapter: Adapter, database: Database) -> None:
        before = time() - self._ttl_seconds
        is_last = False
        while not is_last:
            # Two transactions: in SQLite, one that has read cannot write after another has written.
            async with self._outbox.transaction(adapter, database) as run:
                rows = await run(tables.done_before(before))
            if rows:
                async with self._outbox.transaction(adapter, database) as run:
                    await run(tables.forgetting([str(row[0]) for row in rows]))
            is_last = len(rows) < tables.ROWS_AT_ONCE
