"""What SQLite's errors mean for a queue file and what to do about them."""

from __future__ import annotations

import sqlite3

from ...errors import BrokerError, BrokerUnavailable

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}

_LOCKED = (
    BrokerUnavailable,
    "queue file {path} stayed locked by another process; if no worker is busy with it, look for a "
    "backup, a database browser or a stopped process that holds it",
)
_FORBIDDEN = (
    BrokerUnavailable,
    "queue file {path} cannot be opened or written by this process; check the owner and "
    "permissions of the file and its folder, and that it is on a writable disk",
)

#: The error and text to raise, by SQLite's primary code; `BrokerUnavailable` if it may pass.
_MEANINGS: dict[int, tuple[type[BrokerError], str]] = {
    **dict.fromkeys(_BUSY, _LOCKED),
    sqlite3.SQLITE_READONLY: _FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: _FORBIDDEN,
    sqlite3.SQLITE_PERM: _FORBIDDEN,
    sqlite3.SQLITE_AUTH: _FORBIDDEN,
    sqlite3.SQLITE_FULL: (
        BrokerUnavailable,
        "no space for queue file {path}; nothing was changed: free space on its disk",
    ),
    sqlite3.SQLITE_IOERR: (
        BrokerUnavailable,
        "reading or writing queue file {path} failed; nothing was changed: check its disk and the "
        "limits of this process",
    ),
    sqlite3.SQLITE_NOTADB: (
        BrokerError,
        "{path} is not a queue file of asynctasq; configure another path",
    ),
    sqlite3.SQLITE_CORRUPT: (
        BrokerError,
        "queue file {path} is damaged; stop everything that uses it, move it away, and get what it "
        'holds out with `sqlite3 FILE ".recover"`',
    ),
}


def explained(error: sqlite3.Error, path: str) -> BrokerError:
    """The error to raise in place of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    kind, text = _MEANINGS.get(code, (BrokerError, "queue file {path}: {error}"))
    return kind(f"{text.format(path=path, error=error)} ({name})")


def is_about_the_file(error: sqlite3.Error) -> bool:
    """Whether to reconnect: unless the file was merely busy, the connection may be broken."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BUSY
