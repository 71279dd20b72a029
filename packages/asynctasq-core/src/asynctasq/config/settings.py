"""Configuration: argument, then `ASYNCTASQ_*` environment variable, then default.

Owns the rule that nothing is silently ignored: an unknown key is an error naming the nearest known
one, a key of an adapter that is not in use says why, and a misspelt variable is found.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ..errors import ConfigurationError
from .fields import (
    PREFIX,
    check,
    check_variables,
    from_environment,
    in_form,
    unknown_name,
)

Driver = Literal["redis", "sqlite", "memory"]

#: Options and names of adapters that may not be installed, for the error's advice only.
DISTRIBUTION_OF = {
    "sqlalchemy_engine": "asynctasq-sqlalchemy",
    "create_worker_session_factory": "asynctasq-sqlalchemy",
    "task_session": "asynctasq-sqlalchemy",
    "tortoise_config": "asynctasq-tortoise",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Where Redis (6.2 or later) or Valkey is, and how to reach it.

    Attributes:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database.
        cluster: Whether `url` is a node of a Redis Cluster.
        sentinels: `host:port` of each Sentinel; then `url` gives only credentials and database.
        sentinel_master: Name of the master that the Sentinels watch.
        sentinel_username: Credentials for the Sentinels themselves.
        sentinel_password: Credentials for the Sentinels themselves.
        username: Instead of the one in `url`.
        password: Instead of the one in `url`; never shown.
        ssl_ca_certs: File with the authorities that TLS trusts.
        ssl_certfile: Client certificate.
        ssl_keyfile: Key of the client certificate.
        ssl_check_hostname: Whether the server's certificate must name its host.
        key_prefix: First part of every key.
        connect_timeout: Seconds to connect.
        timeout: Seconds that any answer may take; also bounds `dispatch`.
    """

    url: str = field(default="redis://localhost:6379/0", repr=False)
    cluster: bool = False
    sentinels: tuple[str, ...] = ()
    sentinel_master: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True
    key_prefix: str = "asynctasq"
    connect_timeout: float = 2.0
    timeout: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteConfig:
    """The embedded broker: one file shared by the processes of one machine.

    Attributes:
        path: The file; its folder is created.
        poll_interval: Seconds between looks for work of other processes, without a query.
        busy_timeout: Seconds to wait for another process's transaction.
        synchronous: `"normal"` survives a killed process; `"full"` also a power cut.
    """

    path: str | Path = ".asynctasq/queue.db"
    poll_interval: float = 0.01
    busy_timeout: float = 5.0
    synchronous: Literal["normal", "full"] = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that core can be told; adapters' options are in `adapter_options`.

    Attributes:
        driver: By default that of the section which is given as an argument, Redis before SQLite;
            else `"redis"` where an `ASYNCTASQ_REDIS_*` variable is set; else `"sqlite"`.
        redis: A `RedisConfig`, or a mapping or URL for one. What it leaves out, or at its default,
            comes from the environment.
        sqlite: A `SQLiteConfig`, or a mapping or path for one; likewise.
        task_defaults: Options of every task that does not set them, as in `TaskConfig`.
        signing_key: One key or several; the first signs, each verifies. Unsigned messages are
            then refused.
        max_payload_bytes: Largest encoded message.
        max_deliveries: How often a message is delivered to workers that die with it; below 3,
            one that only ran beside a deadly message may be given up with it.
        model_modules: Packages besides the worker's own from which models may be imported.
        imports: Modules that a worker loads besides those on its command line.
        adapter_options: Options claimed by adapters, by name.
    """

    driver: Driver = "sqlite"
    redis: RedisConfig = field(default_factory=RedisConfig)
    sqlite: SQLiteConfig = field(default_factory=SQLiteConfig)
    task_defaults: Mapping[str, Any] = field(default_factory=dict)
    signing_key: tuple[bytes, ...] = field(default=(), repr=False)
    max_payload_bytes: int = 1024 * 1024
    max_deliveries: int = 5
    model_modules: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    adapter_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        options: Mapping[str, Any],
        adapter_names: Iterable[str] = (),
        environ: Mapping[str, str] = os.environ,
        not_loaded: Mapping[str, str] = MappingProxyType({}),
    ) -> Config:
        """Build the configuration from arguments and environment.

        Args:
            options: Keys of this class, and of the adapters.
            adapter_names: Option names that installed adapters claim.
            environ: Where `ASYNCTASQ_*` variables are looked up.
            not_loaded: Why installed distributions of adapters are not in use, by their name.

        Raises:
            ConfigurationError: An unknown key or variable, or a value that cannot be one.
        """
        claimed = set(adapter_names)
        known = {f.name for f in fields(cls)} - {"adapter_options"}
        for name in options:
            if name not in known and name not in claimed:
                raise ConfigurationError(_unknown(name, known | claimed, "option", not_loaded))
        check_variables(cls, claimed, environ)
        values = from_environment(cls, PREFIX, environ)
        values |= {k: v for k, v in options.items() if k in known}
        values.setdefault("driver", _implied_driver(options, environ))
        for name, section, main in (
            ("redis", RedisConfig, "url"),
            ("sqlite", SQLiteConfig, "path"),
        ):
            prefix = f"{PREFIX}{name.upper()}_"
            values[name] = _section(section, main, values.get(name), prefix, environ)
        adapter_options = {k: v for k, v in options.items() if k in claimed}
        return _checked(_built(cls, {**values, "adapter_options": adapter_options}))


def _implied_driver(options: Mapping[str, Any], environ: Mapping[str, str]) -> Driver:
    """The broker of the section that was given: as an argument, or else in the environment."""
    if options.get("redis") is not None:
        return "redis"
    if options.get("sqlite") is not None:
        return "sqlite"
    return "redis" if from_environment(RedisConfig, f"{PREFIX}REDIS_", environ) else "sqlite"


def _checked(config: Config) -> Config:
    if any(not 16 <= len(key) <= 64 for key in config.signing_key):
        raise ConfigurationError("signing_key: each key must be 16 to 64 bytes long")
    return config


QUEUE_RULE = "1 to 200 printable characters without spaces, commas and braces"


def is_queue_name(name: object) -> bool:
    """Whether a queue may have this name: `QUEUE_RULE`; braces would break Redis hash tags."""
    if not isinstance(name, str):
        return False
    return 0 < len(name) <= 200 and name.isprintable() and not set(name) & set(" ,{}")


def _unknown(
    name: str,
    known: Iterable[str],
    kind: str,
    not_loaded: Mapping[str, str] = MappingProxyType({}),
) -> str:
    if name in DISTRIBUTION_OF:
        distribution = DISTRIBUTION_OF[name]
        why = not_loaded.get(distribution, "not installed")
        return f"{kind} {name!r} belongs to {distribution}, which is {why}"
    return unknown_name(name, known, kind)


def _section(cls: type[Any], main: str, value: Any, prefix: str, environ: Mapping[str, str]) -> Any:
    """A nested configuration: what was given, over the environment's, over the defaults."""
    if value is None:
        value = {}
    elif isinstance(value, str | Path):
        value = {main: value}
    elif isinstance(value, cls):
        given = {f: getattr(value, f.name) for f in fields(cls)}
        value = {f.name: v for f, v in given.items() if v != f.default}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{cls.__name__} expected, not {type(value).__name__}")
    known = {f.name for f in fields(cls)}
    for name in value:
        if name not in known:
            raise ConfigurationError(f"{cls.__name__}: {_unknown(name, known, 'option')}")
    return _built(cls, from_environment(cls, prefix, environ) | dict(value), f"{cls.__name__}: ")


def _built(cls: type[Any], values: Mapping[str, Any], where: str = "") -> Any:
    hints = typing.get_type_hints(cls)
    built = cls(**{name: in_form(value, hints[name]) for name, value in values.items()})
    check(built, where)
    return built
