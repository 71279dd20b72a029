"""Recognises errors that are not about the query: the database could not answer.

Tortoise translates only some of its drivers' errors, so this checks the codes in the drivers' own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

#: Classes of SQLSTATE: connection, authorisation, resources, operator intervention, system error.
_SQLSTATE_CLASSES = ("08", "28", "53", "57", "58")
#: Serialization failure, deadlock, lock not available, no such database.
_SQLSTATES = {"40001", "40P01", "55P03", "3D000"}
#: Row changed since the snapshot, too many connections, access denied, node not ready, no such
#: database, shutdown, too many for this user, lock wait timeout, deadlock, lock taken; 2000 to 2099
#: are errors of the client's connection.
_MYSQL_CODES = {
    *(1020, 1040, 1044, 1045, 1047, 1049, 1053, 1077, 1129),
    *(1130, 1203, 1205, 1213, 1226, 3572),
}
_SQLITE_CODES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


def outage(error: BaseException) -> BaseException | None:
    """The driver's error that shows an outage, found in an error from a query or a connect."""
    from tortoise.exceptions import DBConnectionError

    causes = list(_with_causes(error))
    for cause in causes:
        if _is_outage(cause) and not isinstance(cause, DBConnectionError):
            return cause
    return next((c for c in causes if isinstance(c, DBConnectionError)), None)


def gave_way(error: BaseException) -> BaseException | None:
    """The driver's error after which a task's work may be repeated, whatever code raised it.

    Ignores errors of other kinds of connections, and errors that the task was handling when it
    raised its own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _is_outage(cause) and not isinstance(cause, OSError):
            return cause
        inner = next((a for a in cause.args if isinstance(a, BaseException)), None)
        cause = cause.__cause__ or inner
    return None


def is_of_a_database(error: Exception) -> bool:
    """Whether an error that escaped a task shows an outage of a database and nothing else."""
    from tortoise.exceptions import DBConnectionError

    return isinstance(error, DBConnectionError) or gave_way(error) is not None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        error = error.__cause__ or inner or error.__context__


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return True  # DBConnectionError and timeouts are among them
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CODES
    driver = type(error).__module__.partition(".")[0]
    if driver in ("pymysql", "asyncmy"):
        code = error.args[0] if error.args else None
        return isinstance(code, int) and (code in _MYSQL_CODES or 2000 <= code < 2100)
    if driver not in ("asyncpg", "psycopg", "psycopg_pool"):
        return False
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return state in _SQLSTATES or state.startswith(_SQLSTATE_CLASSES)
    # Without a code it did not come from a server: the connection or the pool is gone.
    return type(error).__name__ in (
        "InterfaceError",
        "OperationalError",
        "PoolTimeout",
        "PoolClosed",
    )
