"""Who waits for which result of a queue file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import Connection

from ...errors import BrokerError
from . import queries as sqlite_queries


class AwaitedResults:
    """Futures of results; registered on event loops, answered by the thread that reads the file.

    Looking costs by the number of new results, not by the number of those who wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[asyncio.Future[bytes]]] = {}
        self._seen: int | None = None
        self._file = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def waiter(self, queue: str, message_id: str) -> Iterator[asyncio.Future[bytes]]:
        """A future of the running loop that gets the result; to be followed by `find`."""
        key = queue, message_id
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        try:
            yield future
        finally:
            self._waiting[key].remove(future)
            if not self._waiting[key]:
                del self._waiting[key]

    def find(self, db: Connection, queue: str, message_id: str) -> bytes | None:
        """The result if it is there; if not, `look` will notice it. In the file's thread."""
        # Anybody else who waits has not been told yet of what has come since the last look.
        if self._seen is None or sum(map(len, self._waiting.values())) == 1:
            self._seen = db.execute("SELECT ifnull(max(serial), 0) FROM result").fetchone()[0]
        return sqlite_queries.result(db, queue, message_id)

    def look(self, db: Connection, file: int) -> None:
        """Answer those whose result has come since the last look. In the file's thread.

        Args:
            file: Differs when `db` is another connection, maybe to another file.
        """
        if self._seen is None or file != self._file:
            self._seen, self._file = 0, file
        new = "SELECT serial, queue, id FROM result WHERE serial > ? ORDER BY serial"
        for serial, queue, message_id in db.execute(new, (self._seen,)).fetchall():
            self._seen = serial
            futures = tuple(self._waiting.get((queue, message_id), ()))
            body = sqlite_queries.result(db, queue, message_id) if futures else None
            for future in futures:
                if body is not None:
                    _call(future, _answer, future, body)

    def fail(self, error: BrokerError) -> None:
        """Let every waiting call raise the error. In the file's thread."""
        for futures in tuple(self._waiting.values()):
            for future in tuple(futures):
                _call(future, _fail, future, error)


def _call(future: asyncio.Future[bytes], *callback_and_arguments: object) -> None:
    try:
        future.get_loop().call_soon_threadsafe(*callback_and_arguments)  # type: ignore[arg-type]
    except RuntimeError:  # that loop was closed with its call still waiting
        return


def _answer(future: asyncio.Future[bytes], body: bytes) -> None:
    if not future.done():
        future.set_result(body)


def _fail(future: asyncio.Future[bytes], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
