"""Translates what asyncpg raises into what a broker raises.

Owns the rules that `BrokerUnavailable` means that a retry may help and a plain `BrokerError` that
it cannot, and that no text contains a password or the arguments of a statement.
"""

from __future__ import annotations

import ssl

import asyncpg
from asyncpg import exceptions
from asynctasq import BrokerError, BrokerUnavailable

#: Temporary refusals, by SQLSTATE or its class.
_PASSING = {
    "08": "the connection broke",
    "25006": "it takes no writes, as after a fail-over",
    "40": "another transaction was in the way",
    "53100": "its disk is full",
    "53200": "its memory is exhausted",
    "53300": "it has too many connections (max_connections)",
    "53": "its resources are exhausted",
    "55P03": "a lock could not be had in time (lock_timeout)",
    "57014": "the statement was cancelled (statement_timeout)",
    "57P01": "the connection was ended by an administrator",
    "57P02": "another of its processes crashed",
    "57P03": "it is starting up or shutting down",
    "57": "it was interrupted",
    "58": "it reports a system error",
    "AQ001": "the worker was taken for dead",
}
#: Errors about something missing: the tables do not exist, or are of another version.
MISSING = (
    exceptions.InvalidSchemaNameError,
    exceptions.UndefinedTableError,
    exceptions.UndefinedFunctionError,
    exceptions.UndefinedColumnError,
)
#: What asyncpg raises for a connection that is gone.
_LOST = (
    OSError,
    EOFError,
    exceptions.InterfaceError,
    exceptions.InternalClientError,
    exceptions.PostgresConnectionError,
    exceptions.OperatorInterventionError,
)
#: Everything a connection may raise; uvloop raises `RuntimeError` for a transport that is gone.
ERRORS = (*_LOST, asyncpg.PostgresError, RuntimeError, ValueError)

_LOGIN = (
    exceptions.InvalidAuthorizationSpecificationError,
    exceptions.InvalidPasswordError,
    exceptions.InvalidCatalogNameError,
)


def broker_error(error: BaseException, where: str) -> BrokerError:
    """The broker's error to raise from `error`.

    Args:
        error: Raised by asyncpg, or a timeout.
        where: The server, as `PostgresBroker.describe` names it.
    """
    if isinstance(error, _LOGIN):
        return BrokerError(
            f"{where} refuses the login: {_brief(error)}; check user, password and database in the "
            f"postgres options"
        )
    if isinstance(error, exceptions.InsufficientPrivilegeError):
        return BrokerError(
            f"{where} denies a right: {_brief(error)}; run `asynctasq tables create` as a role "
            f"that has it, and grant this one what the broker's README lists"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerError(
            f"{where}: no TLS connection: {_brief(error)}; check sslmode, sslrootcert"
        )
    if isinstance(error, MISSING):
        return BrokerUnavailable(f"{where}: its tables are missing: {_brief(error)}")
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        reason = _PASSING.get(state) or _PASSING.get(state[:2])
        if reason:
            return BrokerUnavailable(f"{where} refuses: {reason} ({state})")
        return BrokerError(f"{where} answered with an error: {_brief(error)} ({state})")
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{where} did not answer in time")
    if isinstance(error, ValueError):
        return BrokerError(f"{where} cannot be sent this: {_brief(error)}")
    return BrokerUnavailable(f"{where} cannot be reached: {_brief(error)}")


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that another one may work."""
    if isinstance(error, ValueError | TimeoutError | exceptions.QueryCanceledError):
        return False
    return isinstance(error, _LOST)


def is_withdrawn(error: BrokerError) -> bool:
    """Whether the server no longer knows the worker, which then holds nothing."""
    return getattr(error.__cause__, "sqlstate", None) == "AQ001"


def is_about_settings(error: asyncpg.PostgresError) -> bool:
    """Whether a pooler, such as pgbouncer, refuses settings that a connection asks for."""
    return "startup parameter" in str(error)


def is_read_only(error: BaseException) -> bool:
    """Whether the server is no longer the primary, so that another has to be found."""
    return isinstance(error, exceptions.ReadOnlySQLTransactionError)


def _brief(error: BaseException) -> str:
    # Only the first line: details and hints may quote what was sent.
    text = getattr(error, "message", None) or str(error)
    return str(text).partition("\n")[0][:300] or type(error).__name__
