"""What SQLite's errors mean for a queue file, and what to do about them."""

from __future__ import annotations

import sqlite3

from ..errors import BrokerError, BrokerUnavailable

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_FORBIDDEN = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}


def explained(error: sqlite3.Error, path: str) -> BrokerError:
    """The error to raise in its place: `BrokerUnavailable` where the condition may pass."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _BUSY:
        return BrokerUnavailable(
            f"queue file {path} stayed locked by another process; if no worker is busy with it, "
            f"look for a backup, a database browser or a stopped process that holds it ({name})"
        )
    if code == sqlite3.SQLITE_FULL:
        return BrokerUnavailable(
            f"no space for queue file {path}; nothing was changed: free space on its disk ({name})"
        )
    if code in _FORBIDDEN:
        return BrokerUnavailable(
            f"queue file {path} cannot be opened or written by this process; check the owner and "
            f"permissions of the file and its folder, and that it is on a writable disk ({name})"
        )
    if code == sqlite3.SQLITE_IOERR:
        return BrokerUnavailable(
            f"reading or writing queue file {path} failed; nothing was changed: check its disk and "
            f"the limits of this process ({name})"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return BrokerError(
            f"{path} is not a queue file of asynctasq; configure another path ({name})"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return BrokerError(
            f"queue file {path} is damaged; stop everything that uses it, move it away, and get "
            f'what it holds out with `sqlite3 FILE ".recover"` ({name})'
        )
    return BrokerError(f"queue file {path}: {error} ({name})")


def is_about_the_file(error: sqlite3.Error) -> bool:
    """Whether the connection is to be opened anew, for it may be the connection that is broken."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BUSY
