"""The outbox: what a transaction dispatched is a row of it, until the broker has the message.

Owns the rule that a commit neither fails nor waits because the broker is away. What this process
cannot send, or does not live to send, the relay of the workers sends (`services.relay`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..adapters.plugins import Adapter, Adapters
from ..adapters.statements import Database, Run, Statement
from ..brokers import Outgoing
from ..errors import BrokerError
from . import tables
from .connections import Connections
from .portal import portal

logger = logging.getLogger(__name__)

#: Rows are deleted so long after their messages were sent, many at once.
DELETE_AFTER_SECONDS = 0.05


class Outbox:
    """What sends messages that have rows in databases of the application, and deletes the rows.

    Args:
        adapters: Those that know the databases.
        connections: To the broker.
    """

    def __init__(self, adapters: Adapters, connections: Connections) -> None:
        self._adapters = adapters
        self._connections = connections
        self._sent: dict[tuple[asyncio.AbstractEventLoop, str, str], list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def insertion(self, messages: Sequence[Outgoing]) -> Iterator[Statement]:
        """What a transaction has to run before its commit."""
        return tables.insertion(messages)

    def send_soon(self, adapter: str, database: Database, messages: Sequence[Outgoing]) -> None:
        """Send messages whose transaction has committed; waits for nothing and raises nothing."""
        sending = self._send(adapter, database, messages)
        try:
            self._start(sending)
        except RuntimeError:  # synchronous code
            portal.submit(sending)

    async def drain(self) -> None:
        """Wait for what is being sent and deleted in the background of this event loop."""
        loop = asyncio.get_running_loop()
        while mine := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.wait(mine)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # the loop holds it weakly
        task.add_done_callback(self._tasks.discard)

    async def _send(self, adapter: str, database: Database, messages: Sequence[Outgoing]) -> None:
        try:
            await self._connections.put(messages)
        except BrokerError as e:
            logger.warning(
                "dispatches wait in the outbox: %s", e, extra={"messages": len(messages)}
            )
            return
        key = (asyncio.get_running_loop(), adapter, database.name)
        if key in self._sent:
            self._sent[key] += [m.id for m in messages]
            return
        self._sent[key] = [m.id for m in messages]
        await asyncio.sleep(DELETE_AFTER_SECONDS)
        await self._delete(adapter, database, self._sent.pop(key))

    async def _delete(self, adapter: str, database: Database, ids: Sequence[str]) -> None:
        try:
            async with self.transaction(self._adapters.loaded[adapter], database) as run:
                for part in _parts(ids):
                    await run(tables.deletion(part))
        except Exception:
            # The relay finds the broker to have the messages, or sends them once more.
            logger.exception("rows of the outbox could not be deleted", extra={"rows": len(ids)})

    def databases(self) -> Iterator[tuple[Adapter, Database]]:
        """Every database that may hold an outbox, with its adapter."""
        for adapter in self._adapters.with_hook("databases"):
            for database in adapter.databases():  # type: ignore[misc]
                yield adapter, database

    def transaction(self, adapter: Adapter, database: Database) -> AbstractAsyncContextManager[Run]:
        """A transaction of its own in a database."""
        assert adapter.own_transaction is not None
        return adapter.own_transaction(database)

    async def holds(self, message_id: str) -> bool:
        """Whether a message is in the outbox of some database."""
        for adapter, database in self.databases():
            async with self.transaction(adapter, database) as run:
                if await run(tables.holding(message_id)):
                    return True
        return False


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[i : i + tables.ROWS_AT_ONCE] for i in range(0, len(ids), tables.ROWS_AT_ONCE))
