"""Translates redis-py's errors into a broker's.

Owns two rules. `BrokerUnavailable` means that trying again may help; a plain `BrokerError` means
that it cannot. No error text carries a password, a key's content or a script's arguments.
"""

from __future__ import annotations

import re
import ssl

from redis import exceptions

from ...errors import BrokerError, BrokerUnavailable

#: Temporary refusals. If a script was refused, the code may be in the middle of the text.
_PASSING = {
    "LOADING": "it is still loading its data",
    "READONLY": "it is a read-only replica, as after a fail-over",
    "OOM": "its memory is exhausted (maxmemory)",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "it has too few replicas to accept writes",
    "MASTERDOWN": "it lost its master",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "the queue's slot is being moved",
    "MOVED": "the queue's slot has moved",
    "ASK": "the queue's slot is being moved",
    "BUSY": "it is busy with a script",
    "UNBLOCKED": "it gave up a blocked read, as after a fail-over",
    "NOGROUP": "its keys were deleted",
    "NOSCRIPT": "its scripts were deleted",
}
_CODE = re.compile(r"\b(" + "|".join(_PASSING) + r")\b")
#: How OpenSSL says that a certificate or key is unfit; if the peer says so, it is an alert.
_UNFIT = re.compile(r"CERT|UNKNOWN_CA|ACCESS_DENIED|KEY_VALUES_MISMATCH|PEM", re.IGNORECASE)
#: How servers word a permission error inside a script.
_DENIAL = re.compile(r"NOPERM|user executing the script can't|ACL failure in script")

#: What a read raises when the transport failed or the server refused.
TRANSPORT_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)


def code_of(error: BaseException) -> str:
    """The code of a temporary refusal, such as `OOM`; empty for any other error."""
    if isinstance(error, exceptions.MovedError):
        return "MOVED"
    if isinstance(error, exceptions.AskError):
        return "ASK"
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return code
    if isinstance(error, exceptions.ResponseError):
        found = _CODE.search(str(error))
        return found.group() if found else ""
    return ""


_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.NoScriptError, "NOSCRIPT"),
)


def broker_error(error: BaseException, where: str) -> BrokerError:
    """The error to raise from `error`.

    Args:
        error: Raised by redis-py, or a timeout.
        where: The server, as `RedisBroker.describe` names it.
    """
    if isinstance(error, exceptions.NoPermissionError) or _DENIAL.search(str(error)):
        return denial(_brief(error), where)
    if isinstance(error, exceptions.AuthenticationError):
        return BrokerError(
            f"{where} refuses the login: {_brief(error)}; check username and password in the "
            f"redis options"
        )
    if unfit := _unfit_certificate(error):
        return BrokerError(
            f"{where}: no TLS connection: {_brief(unfit)}; check ssl_ca_certs, ssl_certfile, "
            f"ssl_keyfile and the host's name in the redis options"
        )
    if code := code_of(error):
        return BrokerUnavailable(f"{where} refuses: {_PASSING[code]} ({code})")
    if _is_about_size(error):
        return BrokerError(f"{where} refuses a value of this size (proto-max-bulk-len)")
    if isinstance(error, exceptions.ResponseError | exceptions.DataError):
        return BrokerError(f"{where} answered with an error: {_brief(error)}")
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return BrokerUnavailable(f"{where} did not answer in time")
    return BrokerUnavailable(f"{where} cannot be reached: {_brief(error)}")


def is_about_size(error: BrokerError) -> bool:
    """Whether the server refused a value because it is too large."""
    return _is_about_size(error.__cause__)


def _is_about_size(error: BaseException | None) -> bool:
    return isinstance(error, exceptions.ResponseError) and "invalid bulk length" in str(error)


def _unfit_certificate(error: BaseException | None) -> ssl.SSLError | None:
    """The error about a certificate or key that caused this one, if any."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and _UNFIT.search(str(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def denial(what: str, where: str) -> BrokerError:
    """The error to raise when the user has no right to do `what`."""
    return BrokerError(
        f"{where} denies a right: {what}; grant the ACL user the rights that the documentation of "
        f"the Redis broker lists"
    )


def _brief(error: BaseException) -> str:
    # The server echoes an unknown command with its arguments, which may hold a payload.
    return str(error).partition(", with args beginning")[0][:300] or type(error).__name__
