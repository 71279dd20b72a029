"""What an error of a database means for a task that waits for its rows.

Drivers disagree: a missing table is an `OperationalError` in SQLite, and asyncpg's errors reach us
bare when they come from connecting. So SQLSTATE and error numbers decide before classes do.
"""

from __future__ import annotations

from asynctasq import InvalidReference, ReferenceUnavailable
from sqlalchemy import exc

#: SQLSTATE classes under which the same query may succeed later: connection, authorisation, missing
#: database, transaction rollback, resources, operator intervention, system error.
_TRANSIENT_CLASSES = {"08", "28", "3D", "40", "53", "57", "58"}
_LOCK_NOT_AVAILABLE = "55P03"
_DATA_CLASS = "22"

#: What MySQL gives where it has an error number only.
_GENERAL = "HY000"

#: SQLite's code for an error in the statement itself; all others of its OperationalErrors pass.
_SQLITE_ERROR = 1

#: MySQL's numbers for a column, table or right that is missing, among its OperationalErrors.
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
    """The error that core understands; the given one where it is neither key nor outage."""
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
    # asyncpg refuses a value before sending it with an InterfaceError that is a ValueError too.
    cause = getattr(error.orig, "__cause__", None)
    return isinstance(cause, ValueError) or _sqlstate(error)[:2] == _DATA_CLASS


def gave_way(error: Exception) -> bool:
    """Whether a database ended the work of whatever code this comes from, which may be repeated.

    An error of another kind, such as an `OSError`, may be of something else than the database.
    """
    return isinstance(error, exc.DBAPIError | exc.TimeoutError) and is_unavailable(error)


def is_unavailable(error: Exception) -> bool:
    """Whether the same may succeed later."""
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
