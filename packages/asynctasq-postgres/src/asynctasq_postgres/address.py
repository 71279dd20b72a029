"""Where the server is: turns `PostgresConfig` into arguments for asyncpg's connections."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from asynctasq import ConfigurationError

from .config import PostgresConfig

#: Also accepts SQLAlchemy's form, `postgresql+asyncpg://`.
_SCHEMES = re.compile(r"(postgres|postgresql)(\+\w+)?")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Address:
    """One database, and the schema in it.

    Attributes:
        options: Arguments of every connection.
        settings: Server settings that a connection asks for, unless a pooler refuses.
        listen_options: Arguments of the connection that receives notifications.
        schema: The schema's quoted name.
        database: Its name as the URL gives it; empty if the URL does not.
        name: For log lines and errors; without credentials.
    """

    def __init__(self, config: PostgresConfig) -> None:
        if not _SCHEMA.fullmatch(config.schema):
            raise ConfigurationError(
                f"postgres.schema: {config.schema!r} is not made of small letters, digits and _"
            )
        self.config = config
        self.schema = f'"{config.schema}"'
        common: dict[str, Any] = {"timeout": config.connect_timeout}
        if config.password is not None:
            common["password"] = config.password
        self.options = {"dsn": _plain(config.url, "url"), **common}
        self.listen_options = {
            "dsn": _plain(config.listen_url or config.url, "listen_url"),
            **common,
        }
        # A statement given up here must not go on in the server and lease messages to nobody.
        self.settings = {
            "application_name": "asynctasq",
            "statement_timeout": str(max(1, round(config.timeout * 1000))),
        }
        self.database = unquote(urlsplit(config.url).path.removeprefix("/"))
        self.name = f"postgres {_place(config.url)} schema {config.schema}"


def _plain(url: str, option: str) -> str:
    """The URL as libpq understands it."""
    parts = urlsplit(url)
    if not _SCHEMES.fullmatch(parts.scheme):
        raise ConfigurationError(f"postgres.{option} must start with postgresql://")
    return urlunsplit(parts._replace(scheme="postgresql"))


def _place(url: str) -> str:
    """Hosts and database, without parameters, which may hold a password."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
