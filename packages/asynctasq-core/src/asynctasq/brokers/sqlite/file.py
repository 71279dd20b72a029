"""One connection to a queue file: opens it, checks it, keeps it valid and runs transactions.

Owns two rules. A transaction is committed whole or not at all. A connection is never used after a
fork, nor once its file has been deleted or replaced; a new one is opened instead.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import quote

from ...errors import BrokerError, BrokerUnavailable, ConfigurationError
from . import schema
from .config import SQLiteConfig
from .failures import explained, is_about_the_file

logger = logging.getLogger(__name__)

CHECKPOINT_BYTES = 16 * 1024 * 1024
CHECKPOINT_WAIT_SECONDS = 0.1
CHECKPOINT_PAUSE_SECONDS = 2.0

_inherited: list[sqlite3.Connection] = []
"""Connections opened before a fork, never closed: closing them could drop the parent's locks."""


class SQLiteFile:
    """A connection that opens on first use; for one thread at a time.

    Attributes:
        path: The file's absolute path.
        times_opened: Changes when a new connection, perhaps to another file, was opened.
    """

    def __init__(self, config: SQLiteConfig) -> None:
        self.path = absolute_path(config.path)
        self._config = config
        self.times_opened = 0
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._looks = 0
        self._next_checkpoint = 0.0
        self._identity: tuple[int, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction, committed at the end unless there is an error.

        Raises:
            BrokerUnavailable: The file is locked, full, read-only or unreadable; nothing changed.
            BrokerError: The file is not a queue file, or is damaged.
        """
        with self._in("BEGIN IMMEDIATE") as db:
            yield db
        self._checkpoint(db)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection whose reads all see the same state, and which waits for no one.

        Raises:
            BrokerError: As in `transaction`.
        """
        with self._in("BEGIN") as db:
            yield db

    def data_version(self) -> int:
        """A number that changes once another connection has committed; runs no query.

        Idle processes call this a hundred times a second, so it checks for a replaced file only
        now and then.
        """
        db, self._looks = self._connection, self._looks + 1
        try:
            if db is None or self._looks % 100 == 0:
                db = self._open()
            version: int = db.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as e:
            raise self._explained(e) from e
        return version

    def allow_busy_seconds(self, seconds: float) -> None:
        """Let the open connection, if any, wait at most this long for others' transactions."""
        if self._connection is not None:
            with self._explaining():
                self._connection.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._pid == os.getpid():
                connection.close()
            else:
                _inherited.append(connection)

    @contextmanager
    def _in(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._explaining():
            db = self._open()
            db.execute(begin)
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error says more; closing rolls back too
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise self._explained(e) from e

    def _explained(self, error: sqlite3.Error) -> BrokerError:
        """The error to raise instead; closes the connection if that may be the cause."""
        if is_about_the_file(error):
            self.close()
        return explained(error, self.path)

    def _checkpoint(self, db: sqlite3.Connection) -> None:
        """Move the write-ahead log back into the file once it is long.

        SQLite's automatic checkpoint does not block writers, and before 3.51.3 two of them during a
        commit could, very rarely, corrupt the file (the "WAL-reset bug"). TRUNCATE blocks writers,
        and resets the log, so that its size tells how much there is to do. During a long read, such
        as a backup, the log keeps growing, and this tries again now and then.
        """
        now = time.monotonic()
        if now < self._next_checkpoint or _size(self.path + "-wal") <= CHECKPOINT_BYTES:
            return
        self.allow_busy_seconds(CHECKPOINT_WAIT_SECONDS)
        with suppress(sqlite3.Error):  # the commit is safe; a later checkpoint will do this
            [busy, _, _] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._next_checkpoint = now + CHECKPOINT_PAUSE_SECONDS if busy else 0.0
        self.allow_busy_seconds(self._config.busy_timeout)

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one if the old one must not be used."""
        if self._connection is not None:
            if self._pid == os.getpid() and self._identity == _identity(self.path):
                return self._connection
            if self._pid == os.getpid():
                logger.warning("queue file %s was deleted or replaced; reopening it", self.path)
            self.close()
        self._connection, self._pid = self._connect(), os.getpid()
        self._identity = _identity(self.path)
        self.times_opened += 1
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        with _uri(self.path) as uri:
            db = sqlite3.connect(
                uri,
                timeout=self._config.busy_timeout,
                isolation_level=None,
                check_same_thread=False,  # the closing thread may differ from the using one
                cached_statements=256,
                uri=True,
            )
        try:
            current = schema.is_current(db, self.path)
            self._use_wal(db)
            db.execute(f"PRAGMA synchronous = {self._config.synchronous}")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute("PRAGMA cache_size = -8000")
            if not current:
                schema.make_current(db, self.path)
        except BaseException:
            db.close()
            raise
        return db

    def _use_wal(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._config.busy_timeout
        while True:
            try:
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as e:
                # When two processes change a new file's mode at once, SQLite fails without waiting.
                if is_about_the_file(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        if mode != "wal":
            raise BrokerError(
                f"queue file {self.path} is on a file system without shared memory (journal mode "
                f"{mode}); put it on a local disk"
            )


def absolute_path(path: str | Path) -> str:
    """The absolute path of the queue file.

    Raises:
        ConfigurationError: The path does not name a file.
    """
    if str(path) in ("", ":memory:"):
        raise ConfigurationError(
            f'sqlite path {str(path)!r} cannot be shared; use driver "memory", or give a file'
        )
    return str(Path(path).expanduser().absolute())


@contextmanager
def _uri(path: str) -> Iterator[str]:
    """The URI to open; a file that does not exist yet will be private to this user.

    SQLite gives a new file the permissions of the file named by `modeof`, and its log and shared
    memory those of the new file. Creating the file here instead would mean closing it again, which
    would drop the locks that other threads of this process may hold on it by then.
    """
    uri = Path(path).as_uri()
    if os.path.exists(path):
        yield f"{uri}?mode=rw"
        return
    folder = Path(path).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = NamedTemporaryFile(dir=folder, prefix=".asynctasq-")  # noqa: SIM115 - see below
    except OSError as e:
        raise BrokerUnavailable(f"queue file {path} cannot be made: {e.strerror}") from e
    with private:
        yield f"{uri}?modeof={quote(private.name)}"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
