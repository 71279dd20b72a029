"""Calls that wait for small values in a queue file to change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from sqlite3 import Connection

from ...errors import BrokerError
from . import remembered_values as sqlite_remembered
from .waiting_futures import answer, fail


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """One call, and the value that it knows."""

    queue: str
    kind: str
    name: str
    known: bytes | None
    future: asyncio.Future[bytes | None]


class AwaitedValues:
    """Futures of changed values; a look costs one query for each of them."""

    def __init__(self) -> None:
        self._waiting: set[_Waiting] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def waiter(
        self, queue: str, kind: str, name: str, known: bytes | None
    ) -> Iterator[asyncio.Future[bytes | None]]:
        """A future on the running loop; it gets the value once a look finds it changed."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(queue, kind, name, known, future)
        self._waiting.add(waiting)
        try:
            yield future
        finally:
            self._waiting.discard(waiting)

    def look(self, db: Connection) -> None:
        """Answer calls whose value is another now; runs in the file's thread."""
        for one in tuple(self._waiting):
            found = sqlite_remembered.get(db, one.queue, one.kind, one.name)
            if found != one.known:
                answer(one.future, found)

    def fail(self, error: BrokerError) -> None:
        """Make every waiting call raise the error; runs in the file's thread."""
        for one in tuple(self._waiting):
            fail(one.future, error)
