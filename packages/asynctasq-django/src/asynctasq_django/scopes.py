"""What surrounds each run: a thread for the task's ORM calls, and a transaction for its locks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from types import TracebackType
from weakref import WeakKeyDictionary

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from asynctasq import ConfigurationError, Ref, runs_for_caller
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .connections import connections_of_caller, lent
from .lanes import LaneContext, borrow, call_loader, give_back, keep, take_back, tidy
from .loading import database_of, load
from .options import Loading


class TaskScope(LaneContext):
    """The scope of one run; costs no thread and no connection until the task uses the ORM."""

    def __init__(self) -> None:
        super().__init__(borrow())
        self._transactions: list[AbstractContextManager[object]] = []
        self._borrowed: ExitStack | None = None
        self.connections: dict[str, BaseDatabaseWrapper] = {}
        self.connections_of_caller: dict[str, BaseDatabaseWrapper] = {}

    async def __aenter__(self) -> TaskScope:
        # Only in these cases can synchronous code be waiting for the task.
        if runs_for_caller() or AsyncToSync.loop_thread_executors:
            self._borrow(connections_of_caller())
        self.enter()
        return self

    async def __aexit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            await self.end_transactions(value)
        finally:
            self.leave()
            if self._borrowed is not None:
                self.lane.submit(self._borrowed.close)
            await give_back(self.lane)

    def _borrow(self, transactions: dict[str, BaseDatabaseWrapper]) -> None:
        """Let the task share the connections on which its caller is in a transaction."""
        if transactions:
            self.connections_of_caller = transactions
            self._borrowed = ExitStack()
            self.lane.submit(self._borrowed.enter_context, lent(transactions))

    def lock(self, refs: Sequence[Ref]) -> list[object | None]:
        """Fetch rows in a transaction that lasts until the task ends; runs in the task's thread."""
        self.begin(database_of(refs[0]))
        return load(refs)

    def begin(self, alias: str) -> None:
        """Begin a transaction until the task ends, unless there is one; in the task's thread."""
        if alias not in self.connections:
            atomic = transaction.atomic(using=alias)
            atomic.__enter__()
            self._transactions.append(atomic)
            self.connections[alias] = connections[alias]

    async def end_transactions(self, error: BaseException | None) -> None:
        """Commit the transactions, or roll them back after an error."""
        # A cancelled task may have left a query running; `give_back` rolls back after it.
        if self._transactions and not (error is not None and self.lane.busy):
            await sync_to_async(self._end_transactions)(error)

    def _end_transactions(self, error: BaseException | None) -> None:
        kind = None if error is None else type(error)
        while self._transactions:
            trace = None if error is None else error.__traceback__
            self._transactions.pop().__exit__(kind, error, trace)


async def fetch_many(refs: Sequence[Ref]) -> Sequence[object | None]:
    """The rows of these references, fetched in the task's thread if they are locked for it."""
    if not any(isinstance(o, Loading) and o.in_task_scope for o in refs[0].options):
        if runs_for_caller() or AsyncToSync.loop_thread_executors:
            return await call_loader(_load_on, connections_of_caller(), refs)
        return await call_loader(load, refs)
    scope = current_scope("select_for_update() in an annotation")
    return await sync_to_async(scope.lock)(refs)


def current_scope(what: str) -> TaskScope:
    """The scope of the task running here.

    Args:
        what: Names what needs the scope, for the error.

    Raises:
        ConfigurationError: No task runs here.
    """
    scope = _current()
    if scope is None:
        raise ConfigurationError(f"{what} needs a running task; none is running")
    return scope


def _load_on(
    shared: dict[str, BaseDatabaseWrapper], refs: Sequence[Ref]
) -> Sequence[object | None]:
    with lent(shared):
        return load(refs)


def _current() -> TaskScope | None:
    context = SyncToAsync.thread_sensitive_context.get(None)
    return context if isinstance(context, TaskScope) else None


@contextmanager
def thread_scope() -> Iterator[None]:
    """Surround a `def` task in its thread: check connections before it, release them after."""
    outer = [c.alias for c in connections.all(initialized_only=True) if c.in_atomic_block]
    take_back()
    tidy(outer)
    scope = _current()
    try:
        with ExitStack() as stack:
            # With a connection of its own the task would wait for these, and these for the task.
            if scope is not None and scope.connections_of_caller:
                stack.enter_context(_one_at_a_time(scope.connections_of_caller.values()))
            if scope is not None:
                stack.enter_context(lent(scope.connections_of_caller | scope.connections))
            yield
    finally:
        tidy(outer)
        keep()


_locks: WeakKeyDictionary[BaseDatabaseWrapper, threading.Lock] = WeakKeyDictionary()
_held: ContextVar[frozenset[int]] = ContextVar("asynctasq_django_held", default=frozenset())


@contextmanager
def _one_at_a_time(shared: Iterable[BaseDatabaseWrapper]) -> Iterator[None]:
    """Keep other `def` tasks off these connections, except one that the holder executes."""
    wanted = sorted((c for c in shared if id(c) not in _held.get()), key=id)
    with ExitStack() as stack:
        for connection in wanted:
            stack.enter_context(_locks.setdefault(connection, threading.Lock()))
        token = _held.set(_held.get() | {id(connection) for connection in wanted})
        try:
            yield
        finally:
            _held.reset(token)
