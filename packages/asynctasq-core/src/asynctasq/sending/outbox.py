"""The outbox: holds each message that a transaction dispatched as a row, until the broker has it.

Owns the rule that a commit neither fails nor waits because the broker is away. Whatever this
process cannot send, or does not live to send, the workers' relay sends (`services.relay`).
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from ..adapters.plugins import Adapter, Adapters
from ..adapters.shielding import given_time
from ..adapters.statements import Database, Run, Statement
from ..brokers import Outgoing
from ..errors import BrokerError
from . import tables
from .connections import Connections
from .joining import Joining
from .portal import portal

logger = logging.getLogger(__name__)

#: Rows are deleted this long after their messages were sent, to delete many at once.
DELETE_AFTER_SECONDS = 0.05

#: How long the end of an event loop, or of the program, may wait to send and delete what is left;
#: rows that are not deleted are sent again.
LAST_SECONDS = 2.0

#: How much of that a deletion that has begun gets.
_LAST_DELETION_SECONDS = 1.0

#: An adapter's name and one of its databases.
Place = tuple[str, Database]

#: Called with the calls that stand for messages whose unique keys were taken.
Learn = Callable[[Mapping[str, str]], None]

_Unsent = tuple[Place, Sequence[Outgoing], Learn]


@dataclass(slots=True)
class _Backlog:
    """What one event loop still has to do for committed transactions."""

    unsent: list[_Unsent] = field(default_factory=list)
    undeleted: dict[Place, list[str]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self.tasks.discard)


class Outbox:
    """Sends messages that have rows in the application's databases, and deletes the rows.

    Args:
        adapters: The adapters, which know the databases.
        connections: Connections to the broker.
        joining: Gives the object that knows which databases are the broker's own, if any can be.
    """

    def __init__(
        self,
        adapters: Adapters,
        connections: Connections,
        joining: Callable[[], Joining | None] = lambda: None,
    ) -> None:
        self._adapters = adapters
        self._connections = connections
        self._joining = joining
        self._without_tables: set[tuple[str, Database]] = set()
        self._backlogs: dict[asyncio.AbstractEventLoop, _Backlog] = {}
        self._is_flushed_at_exit = False
        self._failing: set[tuple[str, str, str]] = set()
        connections.before_closing = self.flush

    def insertion(self, messages: Sequence[Outgoing]) -> Iterator[Statement]:
        """The statements that a transaction must run before its commit."""
        return tables.insertion(messages)

    # --- after the commit ---------------------------------------------------------------

    def send_soon(
        self, adapter: str, database: Database, messages: Sequence[Outgoing], learn: Learn
    ) -> None:
        """Send messages whose transaction has committed; never waits or raises."""
        unsent = ((adapter, database), messages, learn)
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # synchronous code
            self._flush_at_exit()
            portal.submit(self._take_in_there(unsent))
        else:
            self._take_in(unsent)

    async def _take_in_there(self, unsent: _Unsent) -> None:
        self._take_in(unsent)

    def _take_in(self, unsent: _Unsent) -> None:
        loop = asyncio.get_running_loop()
        backlog = self._backlogs.get(loop)
        if backlog is None:
            for closed in [other for other in list(self._backlogs) if other.is_closed()]:
                del self._backlogs[closed]
            backlog = self._backlogs[loop] = _Backlog()
        self._connections.broker()  # from now on, the end of the loop flushes
        backlog.unsent.append(unsent)
        backlog.start(self._send(backlog, unsent))

    async def _send(self, backlog: _Backlog, unsent: _Unsent) -> None:
        place, messages, learn = unsent
        try:
            learn(await self._connections.put_resolved(messages))
        except BrokerError as e:
            _warn(e, len(messages))
        else:
            if not backlog.undeleted:
                backlog.start(self._delete_later(backlog))
            _note_sent(backlog, place, messages)
        backlog.unsent.remove(unsent)  # not if cancelled, since `flush` then sends it

    async def _delete_later(self, backlog: _Backlog) -> None:
        await asyncio.sleep(DELETE_AFTER_SECONDS)
        await given_time(self._delete(backlog), _LAST_DELETION_SECONDS)

    async def _delete(self, backlog: _Backlog) -> None:
        undeleted, backlog.undeleted = backlog.undeleted, {}
        for (adapter, database), ids in undeleted.items():
            try:
                async with self.transaction(self._adapters.loaded[adapter], database) as run:
                    for part in tables.portions(ids, len):
                        await run(tables.deletion(part))
            except asyncio.CancelledError:
                backlog.undeleted = undeleted  # `flush` deletes them
                raise
            except Exception:
                # The relay finds that the broker has the messages, or sends them again.
                fields = {"rows": len(ids), "database": database.name}
                logger.exception("rows of the outbox could not be deleted", extra=fields)

    async def until_sent(self) -> None:
        """Wait for the sends under way in this process; whether they succeed does not matter."""
        await self._until_sent_here()
        # After what synchronous code has submitted there by now.
        await portal.finish_if_started(self._until_sent_here())

    async def _until_sent_here(self) -> None:
        backlog = self._backlogs.get(asyncio.get_running_loop())
        while backlog is not None and backlog.unsent and backlog.tasks:
            await asyncio.wait(backlog.tasks, return_when=asyncio.FIRST_COMPLETED)

    # --- the end of a loop, and of the program ------------------------------------------

    async def flush(self) -> None:
        """Send and delete what the running event loop has left, within a bounded time."""
        backlog = self._backlogs.pop(asyncio.get_running_loop(), None)
        if backlog is None:
            return
        tasks = list(backlog.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        count = sum(len(messages) for _, messages, _ in backlog.unsent)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                for place, messages, learn in backlog.unsent:
                    learn(await self._connections.put_resolved(messages))
                    _note_sent(backlog, place, messages)
                    count -= len(messages)
                await self._delete(backlog)
        except (BrokerError, TimeoutError) as e:
            _warn(e, count)

    def _flush_at_exit(self) -> None:
        """Make a synchronous program wait for the portal's backlog before it ends."""
        if not self._is_flushed_at_exit:
            self._is_flushed_at_exit = True
            # Adapters use `concurrent.futures`, which refuses work earlier than `atexit` callbacks
            # run, so register with `threading`.
            register = getattr(threading, "_register_atexit", atexit.register)
            register(lambda: portal.run_if_started(self.flush(), wait=True))

    # --- databases ----------------------------------------------------------------------

    def databases(self) -> Iterator[tuple[Adapter, Database]]:
        """All databases that may hold an outbox, each with its adapter."""
        for adapter in self._adapters.with_hook("databases"):
            for database in adapter.databases():  # type: ignore[misc]
                yield adapter, database

    def transaction(self, adapter: Adapter, database: Database) -> AbstractAsyncContextManager[Run]:
        """A separate transaction in a database."""
        assert adapter.own_transaction is not None
        return adapter.own_transaction(database)

    async def in_each_database(
        self, work: Callable[[Adapter, Database], Awaitable[None]], what: str
    ) -> None:
        """Do something in each database; a failure in one does not keep the others back.

        A failure is logged once until it succeeds again; only the broker's errors are raised.

        Args:
            what: What failed, for the log.
        """
        for adapter, database in self.databases():
            key = (what, adapter.name, database.name)
            try:
                if not await self.needs_no_tables(adapter, database):
                    await work(adapter, database)
            except BrokerError:
                raise
            except Exception:
                if key not in self._failing:
                    self._failing.add(key)
                    logger.exception(what, extra={"database": database.name})
            else:
                self._failing.discard(key)

    async def holds(self, message_id: str) -> bool | None:
        """Whether a message is in some database's outbox; `None` if a database does not answer."""
        answers: list[bool] = []

        async def ask(adapter: Adapter, database: Database) -> None:
            async with self.transaction(adapter, database) as run:
                answers.append(bool(await run(tables.holding(message_id))))

        await self.in_each_database(ask, "an outbox cannot be asked for a call")
        if any(answers):
            return True
        places = {(adapter.name, database) for adapter, database in self.databases()}
        return False if len(answers) == len(places - self._without_tables) else None

    async def needs_no_tables(self, adapter: Adapter, database: Database) -> bool:
        """Whether a database lacks core's tables and may, since it is the broker's own.

        If it has the tables, they are from a time when it was not.
        """
        joining, place = self._joining(), (adapter.name, database)
        if joining is None or place in self._without_tables:
            return joining is not None
        async with self.transaction(adapter, database) as run:
            if not await joining.can_join(adapter.name, database, run):
                return False
        for table in (tables.OUTBOX, tables.DONE):
            try:
                async with self.transaction(adapter, database) as run:
                    await run(tables.presence(table))
            except Exception:  # noqa: BLE001 - a driver's own
                continue
            return False
        async with self.transaction(adapter, database) as run:
            await run(Statement("SELECT 1"))  # it is the tables that are missing, not the database
        self._without_tables.add(place)
        return True


def _note_sent(backlog: _Backlog, place: Place, messages: Sequence[Outgoing]) -> None:
    backlog.undeleted.setdefault(place, []).extend(m.id for m in messages)


def _warn(error: Exception, count: int) -> None:
    logger.warning("dispatches wait in the outbox: %s", error, extra={"messages": count})
