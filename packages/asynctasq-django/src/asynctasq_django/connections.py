"""Finds the connection on which the caller has a transaction open, and whether that has written.

Django keeps connections by thread and does not report what a transaction has done. So each new
connection is remembered with its thread, and each statement on it is checked. A transaction that
has only read delays nothing. One that has written anything delays every dispatch of instances from
its database: `update()`, `bulk_create()`, raw SQL and rows of other tables leave no trace on the
instance, and a task that started now would not see them.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from asgiref.sync import AsyncToSync, SyncToAsync
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .identity import watch_refreshes
from .waiting_dispatches import note_savepoint

_by_thread: WeakValueDictionary[tuple[int, str], BaseDatabaseWrapper] = WeakValueDictionary()

_READING = re.compile(
    r"\W*(?:SELECT|VALUES|SHOW|EXPLAIN|PRAGMA|SET|DECLARE|FETCH|CLOSE|BEGIN|SAVEPOINT|RELEASE"
    r"|ROLLBACK|WITH(?!.*\b(?:INSERT|UPDATE|DELETE|MERGE)\b))\b",
    re.IGNORECASE | re.DOTALL,
)

_AT_A_SAVEPOINT = re.compile(r"\s*(?:SAVEPOINT|ROLLBACK)\b", re.IGNORECASE)


class WriteWatch:
    """Passes on the statements of one connection, and remembers which transaction last wrote.

    The outermost atomic block identifies a transaction. A decorator uses the same block again and
    again, so a later transaction that only reads may be taken for one that wrote; a dispatch in it
    then waits for the commit needlessly.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # Assume that it has written: nobody watched it until now.
        self._wrote_in = _outermost(connection)

    def __call__(
        self,
        execute: Callable[..., Any],
        sql: object,
        params: Any,
        many: bool,
        context: dict[str, Any],
    ) -> Any:
        """Called by Django in place of executing the statement."""
        connection = context["connection"]
        block = _outermost(connection)
        if block is None or not (isinstance(sql, str) and _READING.match(sql)):
            self._wrote_in = block
        result = execute(sql, params, many, context)
        if connection.run_on_commit and isinstance(sql, str) and _AT_A_SAVEPOINT.match(sql):
            note_savepoint(connection, sql)
        return result

    def has_written(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether the transaction that is open now has written."""
        return self._wrote_in is not None and self._wrote_in is _outermost(connection)


def _outermost(connection: BaseDatabaseWrapper) -> object | None:
    return connection.atomic_blocks[0] if connection.atomic_blocks else None


def watch_connections() -> None:
    """Start watching the process's connections and refreshes; calling it again is harmless."""
    watch_refreshes()
    connection_created.connect(_remember, dispatch_uid="asynctasq_django")
    if settings.configured:
        for connection in connections.all(initialized_only=True):
            _remember(connection)


def _remember(connection: BaseDatabaseWrapper, **_: object) -> None:
    _by_thread[threading.get_ident(), connection.alias] = connection
    if not any(isinstance(wrapper, WriteWatch) for wrapper in connection.execute_wrappers):
        # At the front: Django removes wrappers by position, from the end.
        connection.execute_wrappers.insert(0, WriteWatch(connection))


def open_connection(alias: str) -> BaseDatabaseWrapper | None:
    """The connection on which the calling code, sync or async, has a transaction open."""
    for thread in (threading.get_ident(), _thread_of_orm_calls()):
        connection = _by_thread.get((thread, alias))
        if connection is not None and _in_transaction(connection):
            return connection
    return None


def any_open_connection() -> BaseDatabaseWrapper | None:
    """As `open_connection` for any database, the default one first."""
    aliases = sorted(connections.settings, key=lambda alias: alias != DEFAULT_DB_ALIAS)
    return next(filter(None, map(open_connection, aliases)), None)


def connections_of_caller() -> dict[str, BaseDatabaseWrapper]:
    """Connections on which synchronous code, waiting for this async code, is in a transaction.

    Django's `TestCase` is such code, or a view that executes a task. In a worker there is none.
    """
    parent = getattr(AsyncToSync.executors, "current", None)
    if parent is not None:
        return _in_atomic_block(parent._work_thread.ident)
    # The event loop's thread: under `asyncio.run` in a synchronous test, it is the test's own. ORM
    # calls of async tests use another thread, so nothing was written in this one.
    here = _in_atomic_block(threading.get_ident())
    return {alias: connection for alias, connection in here.items() if has_written(connection)}


def _in_atomic_block(thread: int) -> dict[str, BaseDatabaseWrapper]:
    found = {alias: _by_thread.get((thread, alias)) for alias in connections.settings}
    return {alias: c for alias, c in found.items() if c is not None and c.in_atomic_block}


@contextmanager
def lent(others: Mapping[str, BaseDatabaseWrapper]) -> Iterator[None]:
    """Use connections of another thread, which is waiting, as if they were this thread's."""
    thread = threading.get_ident()
    own = {alias: connections[alias] for alias in others}
    for alias, connection in others.items():
        connection.inc_thread_sharing()
        connections[alias] = _by_thread[thread, alias] = connection
    try:
        yield
    finally:
        for alias, connection in own.items():
            connections[alias] = _by_thread[thread, alias] = connection
            others[alias].dec_thread_sharing()


def has_written(connection: BaseDatabaseWrapper) -> bool:
    """Whether the transaction open on the connection has, or may have, written anything."""
    watches = [w for w in connection.execute_wrappers if isinstance(w, WriteWatch)]
    by_hand = not connection.in_atomic_block
    return by_hand or not watches or watches[0].has_written(connection)


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    return connection.in_atomic_block or (
        connection.connection is not None and not connection.autocommit
    )


def _thread_of_orm_calls() -> int:
    """The thread to which asgiref sends the ORM calls of the running async code; 0 if none."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return 0
    parent = getattr(AsyncToSync.executors, "current", None)
    if parent is None:
        parent = AsyncToSync.loop_thread_executors.get(loop)
    if parent is not None:
        return parent._work_thread.ident or 0
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor: Any = SyncToAsync.single_thread_executor
    if context is not None:
        executor = SyncToAsync.context_to_thread_executor.get(context)
    threads = getattr(executor, "_threads", ())
    return next((thread.ident or 0 for thread in threads), 0)
