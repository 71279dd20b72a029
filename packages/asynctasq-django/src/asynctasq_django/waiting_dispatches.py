"""The dispatches that wait for a transaction's commit, as callbacks on Django's own list.

Django reports no rollbacks. It only takes the callbacks of what was rolled back, or of a broken
connection, off its list; nothing else holds them, so they drop their dispatch when they are
deleted. Savepoints that the application sets and rolls back itself do not change that list, so
their statements are watched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from weakref import ref

from asynctasq import DeferredSend, DeferredSends, send_together
from django.db.backends.base.base import BaseDatabaseWrapper

from .outbox import database_of, run

_SAVEPOINT = re.compile(
    r"\s*(?P<back>ROLLBACK\b.*?\bTO\s+)?(?:SAVEPOINT\s+)?\W*(?P<name>\w+)\W*$", re.IGNORECASE
)


class WaitingDispatches:
    """The dispatches of one transaction, in order; their callbacks keep this object alive.

    Attributes:
        kept: The dispatches written to the outbox just before the commit.
    """

    def __init__(self) -> None:
        self._callbacks: list[ref[OnCommit]] = []
        self._places: dict[str, int] = {}
        self.kept: DeferredSends | None = None

    def __del__(self) -> None:
        if self.kept is not None:
            self.kept.drop()

    def add(self, callback: OnCommit) -> int:
        """Add a callback at the end; returns its place."""
        self._callbacks.append(ref(callback))
        return len(self._callbacks) - 1

    def since(self, place: int) -> Iterator[OnCommit]:
        """The callbacks from this place on that were not rolled back."""
        return filter(None, (callback() for callback in self._callbacks[place:]))

    def keep(self, connection: BaseDatabaseWrapper) -> None:
        """Write waiting dispatches to the outbox, if there is one."""
        self.kept = DeferredSends("django", database_of(connection))
        for callback in self.since(0):
            if (send := callback.take()) is not None:
                self.kept.add(send)
        self.kept.keep(partial(run, connection))

    def savepoint(self, name: str) -> None:
        """Note that a savepoint was set here."""
        self._places[name] = len(self._callbacks)

    def roll_back(self, name: str) -> None:
        """Drop what was dispatched since the savepoint; an unknown one precedes everything."""
        for callback in self.since(self._places.get(name, 0)):
            callback.drop()


class OnCommit:
    """The callback of one dispatch.

    The first one that Django calls sends the whole transaction's dispatches in one round trip, so
    that a commit waits only once for a broker that is away. Tests that call captured callbacks send
    them one by one.
    """

    def __init__(self, send: DeferredSend, connection: BaseDatabaseWrapper) -> None:
        self._send: DeferredSend | None = send
        self._connection = ref(connection)
        self.waiting = waiting_on(connection) or WaitingDispatches()
        self._place = self.waiting.add(self)
        keep_before_commit(connection)

    def __call__(self) -> None:
        if self.waiting.kept is not None:
            self.waiting.kept.send()
            return
        all_of_it = [self] if self._is_captured() else self.waiting.since(self._place)
        sends = [send for callback in all_of_it if (send := callback.take()) is not None]
        if sends:
            send_together(sends)

    def drop(self) -> None:
        """Forget the dispatch."""
        if (send := self.take()) is not None:
            send.drop()

    def __del__(self) -> None:
        self.drop()

    def take(self) -> DeferredSend | None:
        """Hand its dispatch over to the caller; `None` if that was done before."""
        send, self._send = self._send, None
        return send

    def _is_captured(self) -> bool:
        """Whether it is still on Django's list, which a commit empties before calling any."""
        connection = self._connection()
        return connection is not None and any(c is self for _, c, *_ in connection.run_on_commit)


def waiting_on(connection: BaseDatabaseWrapper) -> WaitingDispatches | None:
    """The dispatches that wait for the commit of the connection's open transaction, if any."""
    callbacks = (callback for _, callback, *_ in reversed(connection.run_on_commit))
    return next((c.waiting for c in callbacks if isinstance(c, OnCommit)), None)


def keep_before_commit(connection: BaseDatabaseWrapper) -> None:
    """Make the connection write waiting dispatches to the outbox just before each commit."""
    if "commit" in vars(connection):
        return
    known = ref(connection)

    def commit() -> None:
        # A weak reference: otherwise the connection would hold itself and outlive its thread.
        if (connection := known()) is not None:
            if (waiting := waiting_on(connection)) is not None:
                waiting.keep(connection)
            type(connection).commit(connection)

    connection.commit = commit  # type: ignore[method-assign]


def note_savepoint(connection: BaseDatabaseWrapper, statement: str) -> None:
    """Note it if a statement has set a savepoint or rolled back to one."""
    waiting, found = waiting_on(connection), _SAVEPOINT.match(statement)
    if waiting is None or found is None:
        return
    if found["back"]:
        waiting.roll_back(found["name"])
    else:
        waiting.savepoint(found["name"])
