"""The relay: sends what a killed process, or one whose broker was away, left in an outbox.

Owns the rule that it leaves a message to the process that dispatched it until that had its time: by
a row's second sighting, not by anybody's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..adapters.plugins import Adapter
from ..adapters.statements import Database
from ..brokers import Broker
from ..errors import BrokerError
from ..sending import tables
from ..sending.outbox import Outbox
from ..sending.telling import tell_dispatched

logger = logging.getLogger(__name__)


class Relay:
    """Sends the rows of all outboxes that were there a turn ago.

    Args:
        outbox: The application's.
        broker: Where the messages go.
    """

    name = "outbox"

    def __init__(self, outbox: Outbox, broker: Broker, interval_seconds: float = 5.0) -> None:
        self.interval_seconds = interval_seconds
        self._outbox = outbox
        self._broker = broker
        self._seen: dict[tuple[str, str], set[str]] = {}
        self._failed: set[tuple[str, str]] = set()

    async def turn(self) -> None:
        """Look at each database once; one that does not answer keeps back no other."""
        for adapter, database in self._outbox.databases():
            try:
                while await self._send_some(adapter, database):
                    pass
            except BrokerError:
                raise
            except Exception:  # noqa: BLE001 - logged there, once for each database
                self._note_failure(adapter, database)
            else:
                self._failed.discard((adapter.name, database.name))

    async def _send_some(self, adapter: Adapter, database: Database) -> bool:
        """Send a page of rows; whether there may be more that are due."""
        async with self._outbox.transaction(adapter, database) as run:
            rows = await run(tables.first_ids(tables.ROWS_AT_ONCE))
        ids = [str(row[0]) for row in rows]
        key = (adapter.name, database.name)
        seen, self._seen[key] = self._seen.get(key, set()), set(ids)
        due = [message_id for message_id in ids if message_id in seen]
        if due:
            await self._send(adapter, database, due)
            self._seen[key].difference_update(due)
        return len(due) == tables.ROWS_AT_ONCE

    async def _send(self, adapter: Adapter, database: Database, ids: Sequence[str]) -> None:
        # One transaction: what another relay sends meanwhile is locked, and passed over.
        async with self._outbox.transaction(adapter, database) as run:
            rows = await run(tables.selection(ids, database.dialect))
            messages = [tables.message(row) for row in rows]
            if not messages:
                return
            refused = await self._broker.put(messages)
            await run(tables.deletion([m.id for m in messages]))
        tell_dispatched(messages, refused)
        logger.info("sent from the outbox", extra={"messages": len(messages)})

    def _note_failure(self, adapter: Adapter, database: Database) -> None:
        """Log a database that fails once, not at every turn."""
        key = (adapter.name, database.name)
        if key not in self._failed:
            self._failed.add(key)
            logger.exception("an outbox cannot be read", extra={"database": database.name})
