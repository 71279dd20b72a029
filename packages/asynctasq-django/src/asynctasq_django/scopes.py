"""What surrounds each run: a thread for the task's ORM calls, and the transaction of its locks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from asgiref.sync import SyncToAsync, sync_to_async
from asynctasq import ConfigurationError, Ref
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .lanes import LaneContext, borrow, call_loader, give_back, keep, take_back, tidy
from .loading import database_of, load
from .options import Loading


class TaskScope(LaneContext):
    """One run of one task; costs no thread and no connection until the task uses the ORM."""

    def __init__(self) -> None:
        super().__init__(borrow())
        self._transactions: list[AbstractContextManager[object]] = []
        self.connections: dict[str, BaseDatabaseWrapper] = {}

    async def __aenter__(self) -> TaskScope:
        self.enter()
        return self

    async def __aexit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            # A cancelled task may have left a query running; `give_back` then rolls back behind it.
            if self._transactions and not (exc is not None and self.lane.busy):
                await sync_to_async(self._end_transactions)(exc, value, tb)
        finally:
            self.leave()
            await give_back(self.lane)

    def lock(self, refs: Sequence[Ref]) -> list[object | None]:
        """Fetch the rows in a transaction that lasts until the task ends; in the task's thread."""
        alias = database_of(refs[0])
        if alias not in self.connections:
            atomic = transaction.atomic(using=alias)
            atomic.__enter__()
            self._transactions.append(atomic)
            self.connections[alias] = connections[alias]
        return load(refs)

    def _end_transactions(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        while self._transactions:
            self._transactions.pop().__exit__(exc, value, tb)


async def fetch_many(refs: Sequence[Ref]) -> Sequence[object | None]:
    """The rows of these references, in the task's thread where they are locked for the task."""
    if not any(isinstance(o, Loading) and o.in_task_scope for o in refs[0].options):
        return await call_loader(load, refs)
    scope = _current()
    if scope is None:
        raise ConfigurationError("select_for_update() locks a row for a task; none is running")
    return await sync_to_async(scope.lock)(refs)


def _current() -> TaskScope | None:
    context = SyncToAsync.thread_sensitive_context.get(None)
    return context if isinstance(context, TaskScope) else None


@contextmanager
def thread_scope() -> Iterator[None]:
    """Round a `def` task, in its thread: connections are checked before and let go afterwards."""
    outer = [c.alias for c in connections.all(initialized_only=True) if c.in_atomic_block]
    take_back()
    tidy(outer)
    scope = _current()
    try:
        with _shared(scope.connections if scope else {}):
            yield
    finally:
        tidy(outer)
        keep()


@contextmanager
def _shared(lent: dict[str, BaseDatabaseWrapper]) -> Iterator[None]:
    """Use the connections that hold the task's locks: on another one it would wait for itself."""
    own = {alias: connections[alias] for alias in lent}
    for alias, connection in lent.items():
        connection.inc_thread_sharing()
        connections[alias] = connection
    try:
        yield
    finally:
        for alias, connection in own.items():
            connections[alias] = connection
            lent[alias].dec_thread_sharing()
