"""Calls that wait for results in a queue file."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from sqlite3 import Connection

from ...errors import BrokerError
from . import queries as sqlite_queries
from .waiting_futures import answer, fail

_Key = tuple[str, str]
_LAST = "SELECT ifnull(max(serial), 0) FROM result"
_SINCE = "SELECT queue, id FROM result WHERE serial > ? ORDER BY serial"


class AwaitedResults:
    """Futures of results, registered on event loops and answered by the thread that reads the file.

    The cost of a look grows with the number of new results or of waiting calls, whichever is
    smaller.
    """

    def __init__(self) -> None:
        self._waiting: dict[_Key, list[asyncio.Future[bytes]]] = {}
        self._seen = 0
        self._file = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def waiter(self, queue: str, message_id: str) -> Iterator[asyncio.Future[bytes]]:
        """A future on the running loop; it gets the result if that is written from now on."""
        key = queue, message_id
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        try:
            yield future
        finally:
            self._waiting[key].remove(future)
            if not self._waiting[key]:
                del self._waiting[key]

    def look(self, db: Connection, file: int) -> None:
        """Answer calls whose result was written since the last look; runs in the file's thread.

        Args:
            file: A number that changes when `db` is a new connection, perhaps to another file.
        """
        for key in self._may_have_come(db, file):
            futures = tuple(self._waiting.get(key, ()))
            body = sqlite_queries.result(db, *key) if futures else None
            for future in futures:
                if body is not None:
                    answer(future, body)

    def _may_have_come(self, db: Connection, file: int) -> Collection[_Key]:
        """All results written since the last call, or all awaited ones if those are fewer."""
        [last] = db.execute(_LAST).fetchone()
        seen = self._seen if file == self._file else 0
        self._seen, self._file = last, file
        if last - seen > len(self._waiting):
            return tuple(self._waiting)
        return db.execute(_SINCE, (seen,)).fetchall()

    def fail(self, error: BrokerError) -> None:
        """Make every waiting call raise the error; runs in the file's thread."""
        for futures in tuple(self._waiting.values()):
            for future in tuple(futures):
                fail(future, error)
