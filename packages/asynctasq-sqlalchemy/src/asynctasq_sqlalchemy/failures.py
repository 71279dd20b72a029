"""Decides what a database error means for a task that waits for its rows.

Drivers disagree: SQLite calls a missing table an `OperationalError`, and asyncpg's errors while
connecting arrive unwrapped. So SQLSTATEs and error numbers decide before classes do.
"""

from __future__ import annotations

from asynctasq import InvalidReference, ReferenceUnavailable
from sqlalchemy import exc

#: SQLSTATE classes under which the same query may succeed later: connection, authorisation, missing
#: database, transaction rollback, resources, operator intervention, system error.
_TRANSIENT_CLASSES = {"08", "28", "3D", "40", "53", "57", "58"}
_LOCK_NOT_AVAILABLE = "55P03"
_DATA_CLASS = "22"

#: MySQL's SQLSTATE for errors that have only a number.
_GENERAL = "HY000"

#: SQLite's code for an error in the statement itself; its other OperationalErrors are temporary.
_SQLITE_ERROR = 1

#: OperationalErrors of MySQL that mean a missing column, table or privilege.
_MYSQL_STATEMENT_ERRORS = {1051, 1054, 1060, 1091, 1142, 1143}

_KEY_ERRORS = (exc.DataError, OverflowError, UnicodeEncodeError)
_UNAVAILABLE = (
    exc.OperationalError,
    exc.InterfaceError,
    exc.DisconnectionError,
    exc.TimeoutError,
    OSError,
    TimeoutError,
)


def explained(error: Exception, model: type) -> Exception:
    """The error translated for core; unchanged if neither a wrong key nor an outage caused it."""
    name = model.__qualname__
    if _is_wrong_key(error):
        return InvalidReference(f"a key in the message cannot be one of {name}")
    if is_unavailable(error):
        original = getattr(error, "orig", None) or error
        kind = type(original).__qualname__
        return ReferenceUnavailable(f"the database of {name} could not answer ({kind})")
    return error


def _is_wrong_key(error: Exception) -> bool:
    if isinstance(error, _KEY_ERRORS):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    # asyncpg refuses a value, before sending it, with an InterfaceError that is a ValueError too.
    cause = getattr(error.orig, "__cause__", None)
    return isinstance(cause, ValueError) or _sqlstate(error)[:2] == _DATA_CLASS


def gave_way(error: Exception) -> bool:
    """Whether a database interrupted the code that raised this, so that it may be repeated.

    Other errors, such as an `OSError`, may come from something other than the database.
    """
    return isinstance(error, exc.DBAPIError | exc.TimeoutError) and is_unavailable(error)


def is_unavailable(error: Exception) -> bool:
    """Whether the same statement may succeed later."""
    state = _sqlstate(error)
    if state:
        return state[:2] in _TRANSIENT_CLASSES or state == _LOCK_NOT_AVAILABLE
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, _UNAVAILABLE) and not _is_statement_error(error)


def _is_statement_error(error: Exception) -> bool:
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return bool(code & 0xFF == _SQLITE_ERROR)
    arguments: tuple[object, ...] = getattr(original, "args", ())
    return bool(arguments) and arguments[0] in _MYSQL_STATEMENT_ERRORS


def _sqlstate(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    for name in ("sqlstate", "pgcode"):
        state = getattr(original, name, None)
        if isinstance(state, str) and state != _GENERAL:
            return state
    return ""
