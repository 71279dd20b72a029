"""The server: its connections, statements run once or until answered, and the broker's errors.

Owns two rules: every wait is bounded, and a statement that has begun is not cut short when its
caller is cancelled, so that a connection is either in use or clean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
from asyncpg import exceptions
from asynctasq import BrokerUnavailable
from asynctasq.brokers import Backoff

from .address import Address
from .connection import connect, fetch_in_transaction, learn_types
from .failures import (
    ERRORS,
    MISSING,
    broker_error,
    is_about_settings,
    is_lost,
    is_read_only,
)
from .loops import PerLoop
from .schema import ensure, upgrade

T = TypeVar("T")

#: Errors of prepared statements behind a pooler without support: their parts met two connections.
_NOT_PREPARED = (
    exceptions.InvalidSQLStatementNameError,
    exceptions.DuplicatePreparedStatementError,
)


@dataclass(slots=True)
class _Open:
    """What one event loop has open.

    Attributes:
        free: Unused connections; the one used last is used next.
        room: Limits the number of open connections.
        running: Statements under way.
    """

    room: asyncio.Semaphore
    free: list[Any] = field(default_factory=list)
    running: set[asyncio.Task[Any]] = field(default_factory=set)


class Server:
    """Runs statements, and connects by itself.

    Args:
        pool_size: Maximum number of connections.
    """

    def __init__(self, address: Address, pool_size: int) -> None:
        self.address = address
        self.timeout_seconds = address.config.timeout
        self._pool_size = pool_size
        self._opened = PerLoop(lambda: _Open(asyncio.Semaphore(pool_size)))
        self._has_tables = False
        self._is_prepared = True
        self._takes_settings = True

    async def ask(
        self,
        sql: str,
        *arguments: Any,
        timeout_seconds: float | None = None,
        is_repeatable: bool = True,
    ) -> list[Any]:
        """Run a statement once; returns its rows.

        If the caller is cancelled, the statement goes on without it.

        Args:
            timeout_seconds: Instead of the configured limit.
            is_repeatable: Whether it may run again if nobody knows whether it ran, because an idle
                connection turned out to be lost.

        Raises:
            BrokerUnavailable: No answer, or a temporary refusal.
            BrokerError: A permanent refusal.
        """
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        opened = self._opened.get()
        running = asyncio.create_task(self._run(opened, sql, arguments, limit, is_repeatable))
        opened.running.add(running)
        running.add_done_callback(opened.running.discard)
        running.add_done_callback(_retrieved)
        return await asyncio.shield(running)

    async def value(self, sql: str, *arguments: Any, **how: Any) -> Any:
        """`ask` for the one value of one row."""
        ((value,),) = await self.ask(sql, *arguments, **how)
        return value

    async def insist(self, sql: str, *arguments: Any) -> list[Any]:
        """Like `ask`, but repeats until the configured `timeout_seconds` are over.

        Raises:
            BrokerUnavailable: No answer came; raised within that time, whatever the server does.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_seconds
        backoff = Backoff()
        left = self.timeout_seconds
        failure: BrokerUnavailable | None = None
        while True:
            try:
                return await self.ask(sql, *arguments, timeout_seconds=left)
            except BrokerUnavailable as e:
                # A timeout says less than the earlier failure that used up the time.
                if failure is None or not isinstance(e.__cause__, TimeoutError):
                    failure = e
            pause = backoff.next()
            left = deadline - loop.time() - pause
            if left <= 0:
                raise failure
            await asyncio.sleep(pause)

    async def insist_on_value(self, sql: str, *arguments: Any) -> Any:
        """`insist` on the one value of one row."""
        ((value,),) = await self.insist(sql, *arguments)
        return value

    async def upgrade(self) -> None:
        """Create the tables, or upgrade them to this version.

        Raises:
            BrokerError: As for `ask`, or they are of a later version.
        """
        try:
            connection = await connect(**self.address.options, statement_cache_size=0)
            try:
                await upgrade(connection, self.address)
                self._has_tables = True
            finally:
                await connection.close(timeout=self.timeout_seconds)
        except ERRORS as e:
            raise broker_error(e, self.address.name) from e

    async def close(self) -> None:
        """Wait for statements under way, which are bounded, and close all connections."""
        opened = self._opened.take()
        if opened is None:
            return
        if opened.running:
            await asyncio.wait(opened.running)
        await asyncio.gather(*(self._end(connection) for connection in opened.free))

    async def _end(self, connection: Any) -> None:
        with suppress(*ERRORS):
            await connection.close(timeout=self.timeout_seconds)

    async def _run(
        self,
        opened: _Open,
        sql: str,
        arguments: Sequence[Any],
        limit: float,
        is_repeatable: bool,
    ) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        try:
            async with asyncio.timeout_at(deadline):
                await opened.room.acquire()
        except TimeoutError as e:
            raise BrokerUnavailable(
                f"{self.address.name}: all {self._pool_size} connections were in use for too long; "
                f"raise postgres.pool_size, or look for what holds up the server"
            ) from e
        try:
            return await self._run_on_some(opened, sql, arguments, deadline, is_repeatable)
        finally:
            opened.room.release()

    async def _run_on_some(
        self,
        opened: _Open,
        sql: str,
        arguments: Sequence[Any],
        deadline: float,
        is_repeatable: bool,
    ) -> list[Any]:
        """Run on a connection, and again on a new one if the first had died while idle."""
        while True:
            connection = _first_open(opened.free)
            may_run_again = is_repeatable and connection is not None
            try:
                if connection is None:
                    connection = await self._connect(deadline)
                rows = await self.fetch_on(connection, sql, arguments, deadline)
            except ERRORS as e:
                is_late = asyncio.get_running_loop().time() >= deadline
                if isinstance(e, _NOT_PREPARED) and not is_late:
                    # It cannot have run. Other statements may have noticed this before.
                    self._is_prepared = False
                    self._drop_all(opened, connection)
                    continue
                if self._failed(opened, connection, e) and may_run_again:
                    continue
                if is_late:
                    raise broker_error(TimeoutError(), self.address.name) from e
                raise broker_error(e, self.address.name) from e
            except BaseException:
                if connection is not None:
                    connection.terminate()
                raise
            opened.free.append(connection)
            return rows

    async def _connect(self, deadline: float) -> Any:
        options = dict(self.address.options)
        if not self._is_prepared:
            options["statement_cache_size"] = 0
        if self._takes_settings:
            options["server_settings"] = self.address.settings
        left = deadline - asyncio.get_running_loop().time()
        options["timeout"] = min(left, options["timeout"])
        try:
            connection = await connect(**options)
        except asyncpg.PostgresError as e:
            if not self._takes_settings or not is_about_settings(e):
                raise
            self._takes_settings = False
            return await self._connect(deadline)
        try:
            if not self._has_tables:
                await bounded(connection, ensure(connection, self.address), deadline)
                self._has_tables = True
            if not (self._takes_settings and self._is_prepared):
                await bounded(connection, learn_types(connection), deadline)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def connect_for_notifications(self) -> Any:
        """A connection that receives notifications; the caller closes it."""
        options = dict(self.address.listen_options)
        if not self._is_prepared:
            options["statement_cache_size"] = 0
        return await connect(**options)

    async def fetch_on(
        self, connection: Any, sql: str, arguments: Sequence[Any], deadline: float
    ) -> list[Any]:
        """Run a statement on a connection, in a way that poolers in between allow."""
        if self._is_prepared:
            fetching = connection.fetch(sql, *arguments)
        else:
            fetching = fetch_in_transaction(connection, sql, arguments)
        rows: list[Any] = await bounded(connection, fetching, deadline)
        return rows

    def _failed(self, opened: _Open, connection: Any | None, error: BaseException) -> bool:
        """Keep or drop connections after a failure; return whether to try another one at once."""
        if isinstance(error, MISSING):
            self._has_tables = False
        is_gone = connection is None or connection.is_closed() or is_lost(error)
        if is_gone or is_read_only(error) or isinstance(error, MISSING):
            self._drop_all(opened, connection)
        else:
            opened.free.append(connection)
        return is_gone

    def _drop_all(self, opened: _Open, connection: Any | None) -> None:
        for other in (*opened.free, *([connection] if connection is not None else ())):
            other.terminate()
        opened.free.clear()


def _first_open(connections: list[Any]) -> Any | None:
    """Take a connection that is not known to be gone."""
    while connections:
        connection = connections.pop()
        if not connection.is_closed():
            return connection
    return None


async def bounded(connection: Any, doing: Awaitable[T], deadline: float) -> T:
    """Await something; at the deadline, terminate the connection, which fails whoever waits on it.

    asyncpg's own timeouts would first ask the server to cancel, and wait for that.

    Raises:
        TimeoutError: The deadline has passed.
    """
    is_over = False

    def end() -> None:
        nonlocal is_over
        is_over = True
        connection.terminate()

    ending = asyncio.get_running_loop().call_at(deadline, end)
    try:
        return await doing
    except Exception as e:
        # If the answer came in the same iteration of the event loop, asyncpg goes on to its next
        # step without checking that the connection was terminated, and raises `AttributeError`.
        if is_over:
            raise TimeoutError from e
        raise
    finally:
        ending.cancel()


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Retrieve the task's error, since the caller who would have may be cancelled."""
    if not task.cancelled():
        task.exception()
