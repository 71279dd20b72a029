"""The dispatches that wait for a transaction's commit, as callbacks on Django's own list.

Django tells nobody of a rollback. It takes the callbacks of what was rolled back, and of a
connection that broke, off its list; nothing else holds them, so they drop their dispatch when they
are deleted. Savepoints that the application sets and rolls back itself leave that list as it is:
for these the statements are watched.
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
    """The dispatches of one transaction in the order of their calls; their callbacks keep it.

    Attributes:
        kept: Those that were written into the outbox just before the commit.
    """

    def __init__(self) -> None:
        self._callbacks: list[ref[OnCommit]] = []
        self._places: dict[str, int] = {}
        self.kept: DeferredSends | None = None

    def __del__(self) -> None:
        if self.kept is not None:
            self.kept.drop()

    def add(self, callback: OnCommit) -> int:
        """Put it at the end; returns its place."""
        self._callbacks.append(ref(callback))
        return len(self._callbacks) - 1

    def since(self, place: int) -> Iterator[OnCommit]:
        """Those from this place on that were not rolled back."""
        return filter(None, (callback() for callback in self._callbacks[place:]))

    def keep(self, connection: BaseDatabaseWrapper) -> None:
        """Write what waits into the outbox, if there is one."""
        self.kept = DeferredSends("django", database_of(connection))
        for callback in self.since(0):
            if (send := callback.take()) is not None:
                self.kept.add(send)
        self.kept.keep(partial(run, connection))

    def savepoint(self, name: str) -> None:
        """A savepoint was set here."""
        self._places[name] = len(self._callbacks)

    def roll_back(self, name: str) -> None:
        """Drop what was dispatched since the savepoint; an unknown one is older than all."""
        for callback in self.since(self._places.get(name, 0)):
            callback.drop()


class OnCommit:
    """The callback of one dispatch.

    The first that Django calls sends all of the transaction in one round trip: with a broker that
    is away, the commit waits once. A test that calls what it has captured sends one by one.
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
        """Its dispatch, which from now on is the caller's; `None` if that was taken before."""
        send, self._send = self._send, None
        return send

    def _is_captured(self) -> bool:
        """Whether it still stands on Django's list, which a commit empties before it calls any."""
        connection = self._connection()
        return connection is not None and any(c is self for _, c, *_ in connection.run_on_commit)


def waiting_on(connection: BaseDatabaseWrapper) -> WaitingDispatches | None:
    """What waits for the commit of the connection's open transaction, if anything does."""
    callbacks = (callback for _, callback, *_ in reversed(connection.run_on_commit))
    return next((c.waiting for c in callbacks if isinstance(c, OnCommit)), None)


def keep_before_commit(connection: BaseDatabaseWrapper) -> None:
    """Let the connection write what waits into the outbox just before each of its commits."""
    if "commit" in vars(connection):
        return
    known = ref(connection)

    def commit() -> None:
        # Not the connection itself, which would then hold itself and live longer than its thread.
        if (connection := known()) is not None:
            if (waiting := waiting_on(connection)) is not None:
                waiting.keep(connection)
            type(connection).commit(connection)

    connection.commit = commit  # type: ignore[method-assign]


def note_savepoint(connection: BaseDatabaseWrapper, statement: str) -> None:
    """Take notice of a statement that has set a savepoint or has rolled back to one."""
    waiting, found = waiting_on(connection), _SAVEPOINT.match(statement)
    if waiting is None or found is None:
        return
    if found["back"]:
        waiting.roll_back(found["name"])
    else:
        waiting.savepoint(found["name"])
