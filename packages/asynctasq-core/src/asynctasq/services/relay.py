"""The relay: sends messages left in an outbox by a process that died or could not reach its broker.

Owns the rule that the dispatching process gets its chance first. The relay sends a row only when it
sees it for the second time, which depends on no one's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from ..adapters.plugins import Adapter
from ..adapters.statements import Database, Run
from ..brokers import Broker, Outgoing
from ..errors import BrokerError, BrokerUnavailable
from ..sending import tables
from ..sending.conflicts import resolve
from ..sending.outbox import Outbox
from ..sending.telling import tell_dispatched

logger = logging.getLogger(__name__)

#: Maximum rows that one turn sends from one outbox.
MOST_ROWS = 100_000


class Relay:
    """Sends the rows that were already in the outboxes a turn ago, in the order of dispatch.

    Args:
        outbox: The application's outbox.
        broker: Where the messages go.
        keys: The signing keys.
    """

    name = "outbox"
    interval_seconds = 5.0

    def __init__(self, outbox: Outbox, broker: Broker, keys: Sequence[bytes] = ()) -> None:
        self._keys = keys
        self._outbox = outbox
        self._broker = broker
        self._seen: dict[tuple[str, str], set[str]] = {}
        self._refused: set[str] = set()

    async def turn(self) -> None:
        """Look at each database once."""
        await self._outbox.in_each_database(self._send_due, "an outbox cannot be read")

    async def _send_due(self, adapter: Adapter, database: Database) -> None:
        rows = await self._rows(adapter, database)
        key = (adapter.name, database.name)
        seen, self._seen[key] = self._seen.get(key, set()), {message_id for message_id, _ in rows}
        due = [row for row in rows if row[0] in seen and row[0] not in self._refused]
        for part in tables.portions(due, itemgetter(1)):
            await self._send(adapter, database, [message_id for message_id, _ in part])

    async def _rows(self, adapter: Adapter, database: Database) -> list[tuple[str, int]]:
        """Ids and sizes of the oldest rows."""
        rows: list[tuple[str, int]] = []
        async with self._outbox.transaction(adapter, database) as run:
            while len(rows) < MOST_ROWS:
                page = await run(tables.oldest(rows[-1][0] if rows else ""))
                rows += [(str(message_id), int(size)) for message_id, size in page]
                if len(page) < tables.ROWS_AT_ONCE:
                    break
        return rows

    async def _send(self, adapter: Adapter, database: Database, ids: Sequence[str]) -> None:
        if database.dialect == "sqlite":
            # SQLite cannot lock rows, and a transaction that has read cannot write after another
            # has written.
            async with self._outbox.transaction(adapter, database) as run:
                rows = await run(tables.selection(ids, database.dialect))
            sent = await self._put_rows(rows)
            async with self._outbox.transaction(adapter, database) as run:
                await self._delete(run, sent)
            return
        # One transaction: it skips rows that another relay has locked and is sending.
        async with self._outbox.transaction(adapter, database) as run:
            rows = await run(tables.selection(ids, database.dialect))
            await self._delete(run, await self._put_rows(rows))

    async def _put_rows(self, rows: Sequence[Sequence[Any]]) -> list[Outgoing]:
        messages = [tables.message(row) for row in rows]
        return await self._put(messages) if messages else []

    async def _delete(self, run: Run, sent: Sequence[Outgoing]) -> None:
        if sent:
            await run(tables.deletion([message.id for message in sent]))
            logger.info("sent from the outbox", extra={"messages": len(sent)})

    async def _put(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Send the messages; return those that the broker has accepted."""
        try:
            refused = await self._broker.put(messages)
            if refused:
                await resolve(self._broker.put, self._keys, messages, refused)
        except BrokerUnavailable:
            raise
        except BrokerError as e:
            if len(messages) == 1:
                self._refused.add(messages[0].id)
                fields = {"id": messages[0].id, "error": str(e)}
                logger.error("the broker refuses a message of the outbox", extra=fields)
                return []
            # Perhaps the server refuses only one of them, so send each alone.
            return [sent for one in messages for sent in await self._put([one])]
        tell_dispatched(messages, refused)
        return list(messages)
