"""Checks that a text is the URL of a Redis server, and says what to write if not.

Owns the rule that a mistake is reported where it was made, and never along with a password.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import ConfigurationError

_FORMS = (
    "write redis://user:password@host:6379/0, rediss://... for TLS, or unix:///path/to/socket?db=0"
)
#: Parameters allowed after `?`: those that redis-py knows and that are not fields of `RedisConfig`.
_PARAMETERS = ("db", "client_name", "socket_keepalive", "ssl_ca_path", "ssl_cert_reqs")
_ENCODE = (
    "a password with any of @ : / ? # [ ] % must be percent-encoded (urllib.parse.quote), or be "
    "given as password="
)


def check_url(url: str) -> None:
    """Check that this is the URL of a Redis server.

    Raises:
        ConfigurationError: It is not; says what is wrong, without any part that may be secret.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix"):
        what = f"the scheme {scheme}:// is none of Redis" if separator else "it has no scheme"
        raise ConfigurationError(f"redis.url: {what[:60]}; {_FORMS}")
    place = rest.rpartition("@")[2]
    if _holds_bare_signs(rest) or "#" in place:
        raise ConfigurationError(f"redis.url: it is unclear where the host begins; {_ENCODE}")
    try:
        parts = urlsplit(f"{scheme}://{place}")
        port, path = parts.port, unquote(parts.path)
    except ValueError:  # not chained: its text may hold a password mistaken for a port
        raise ConfigurationError(
            f"redis.url: the port is not a number up to 65535; {_FORMS}"
        ) from None
    if scheme == "unix":
        if parts.netloc or not path.strip("/"):
            raise ConfigurationError("redis.url: unix:// needs three slashes and a path")
    elif port == 0:
        raise ConfigurationError("redis.url: port 0 is none that a server can have")
    elif path.strip("/") and not _is_number(path.strip("/")):
        raise ConfigurationError(
            f"redis.url: the database must be a number, such as /0, not {path[:60]!r}"
        )
    _check_query(parts.query)


def _holds_bare_signs(rest: str) -> bool:
    """Whether the login holds unescaped characters that would end it."""
    login, separator, _ = rest.rpartition("@")
    return bool(separator) and bool(set(login) & set("@/?#[]"))


def _check_query(query: str) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise ConfigurationError(
                f"redis.url: unknown parameter {name[:60]!r}; the URL may have "
                f"{', '.join(_PARAMETERS)}, all else are fields of RedisConfig"
            )
        if name == "db" and not _is_number(value):
            raise ConfigurationError(
                f"redis.url: the database must be a number, such as ?db=0, not {value[:60]!r}"
            )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
