"""One connection to a queue file: opened, checked, kept valid, its transactions.

Owns two rules: a transaction is committed whole or not at all, and a connection is never used after
a fork, or on a file that has been deleted or replaced meanwhile; then it is opened anew.
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
"""Connections opened before a fork: closed here, they could undo locks of the parent."""


class SQLiteFile:
    """A connection that opens by itself; used by one thread at a time.

    Attributes:
        path: Absolute.
        times_opened: Changes when another connection, perhaps to another file, was opened.
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
            BrokerUnavailable: Locked, full, read-only or unreadable; nothing was changed.
            BrokerError: Not a queue file, or damaged.
        """
        with self._in("BEGIN IMMEDIATE") as db:
            yield db
        self._checkpoint(db)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection whose reads all see the same state, and which waits for nobody.

        Raises:
            BrokerError: As `transaction`.
        """
        with self._in("BEGIN") as db:
            yield db

    def data_version(self) -> int:
        """A number that differs once another connection has committed; runs no query.

        Called a hundred times a second by idle processes, it notices a replaced file only now and
        then.
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
        """Let the open connection, if any, wait at most so long for others' transactions."""
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
        """The error to raise instead; the connection may be the cause, so the next is a new one."""
        if is_about_the_file(error):
            self.close()
        return explained(error, self.path)

    def _checkpoint(self, db: sqlite3.Connection) -> None:
        """Bring the log back into the file once it is long.

        Not left to SQLite: its automatic checkpoint does not keep writers out, and before 3.51.3
        two of them beside a commit could, very rarely, damage the file (the "WAL-reset bug").
        TRUNCATE keeps them out, and makes the size of the log say how much there is to do. While
        somebody reads for long (a backup, say) the log grows, and is tried again now and then.
        """
        now = time.monotonic()
        if now < self._next_checkpoint or _size(self.path + "-wal") <= CHECKPOINT_BYTES:
            return
        self.allow_busy_seconds(CHECKPOINT_WAIT_SECONDS)
        with suppress(sqlite3.Error):  # what was committed is safe; a later checkpoint does it
            [busy, _, _] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._next_checkpoint = now + CHECKPOINT_PAUSE_SECONDS if busy else 0.0
        self.allow_busy_seconds(self._config.busy_timeout)

    def _open(self) -> sqlite3.Connection:
        """The connection, a new one where the old must not be used."""
        if self._connection is not None:
            if self._pid == os.getpid() and self._identity == _identity(self.path):
                return self._connection
            if self._pid == os.getpid():
                logger.warning("queue file %s was deleted or replaced; opening it anew", self.path)
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
                check_same_thread=False,  # closed by another thread than the one that used it
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
                # Two processes that both change the mode of a new file: SQLite waits for neither.
                if is_about_the_file(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        if mode != "wal":
            raise BrokerError(
                f"queue file {self.path} is on a file system without shared memory (journal mode "
                f"{mode}); put it on a local disk"
            )


def absolute_path(path: str | Path) -> str:
    """Where the queue file is.

    Raises:
        ConfigurationError: The path names no file.
    """
    if str(path) in ("", ":memory:"):
        raise ConfigurationError(
            f'sqlite path {str(path)!r} cannot be shared; use driver "memory", or give a file'
        )
    return str(Path(path).expanduser().absolute())


@contextmanager
def _uri(path: str) -> Iterator[str]:
    """What SQLite opens; a file that is not there yet will be for this user alone.

    SQLite gives a new file the permissions of the one named by `modeof`, and the log and shared
    memory beside it those of the file. Making the file here instead would mean to close it again,
    which undoes the locks that other threads of this process have on it meanwhile.
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
