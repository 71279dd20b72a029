"""`tortoise_config`, and the arguments that `Tortoise.init` takes.

Tortoise takes pool sizes only among the credentials of each connection. Here they may also be given
beside `db_url`, as `minsize` and `maxsize` or in `connection_config`, and reach every connection
that has a pool.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from asynctasq import ConfigurationError

#: Names for pool sizes, and the credential that Tortoise's clients read.
_POOL_SIZES = {
    "minsize": "minsize",
    "maxsize": "maxsize",
    "min_pool_size": "minsize",
    "max_pool_size": "maxsize",
    "min_size": "minsize",
    "max_size": "maxsize",
}
POOL_ARGUMENTS = frozenset({"minsize", "maxsize", "connection_config"})
_SOURCES = ("db_url", "config", "config_file", "connections")
_KNOWN = {
    *POOL_ARGUMENTS,
    *_SOURCES,
    *("apps", "modules", "use_tz", "timezone", "routers", "table_name_generator", "_create_db"),
    *("init_connections", "_enable_global_fallback"),
}


def check_config(config: object) -> Mapping[str, Any]:
    """`tortoise_config` as given, if it can work.

    Raises:
        ConfigurationError: Names the wrong key.
    """
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"tortoise_config must be a dict, not {type(config).__name__}")
    for key in config:
        if key not in _KNOWN:
            near = difflib.get_close_matches(str(key), _KNOWN, 1)
            advice = f"did you mean {near[0]!r}?" if near else "Tortoise.init has no such argument"
            raise ConfigurationError(f"tortoise_config: unknown key {key!r}: {advice}")
    if sum(bool(config.get(key)) for key in _SOURCES) != 1:
        raise ConfigurationError(f"tortoise_config needs exactly one of {', '.join(_SOURCES)}")
    _pool(config)
    return config


def init_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for Tortoise's own `init`.

    Args:
        options: Its arguments and pool sizes, or the usual dict with `connections` and `apps`.

    Raises:
        ConfigurationError: Pool sizes are impossible, or given beside `config_file`.
    """
    arguments = {k: v for k, v in options.items() if k not in POOL_ARGUMENTS}
    if "connections" in arguments:
        arguments = {"config": arguments}
    if credentials := _pool(options):
        arguments["config"] = _with_credentials(arguments, credentials)
    return arguments


def _with_credentials(arguments: dict[str, Any], credentials: dict[str, Any]) -> Any:
    """Take the sources out of the arguments and merge them into one configuration."""
    from tortoise.backends.base.config_generator import expand_db_url, generate_config

    if "config_file" in arguments:
        raise ConfigurationError("pool sizes beside config_file: write them into that file")
    if url := arguments.pop("db_url", None):
        config: Any = generate_config(url, app_modules=arguments.pop("modules", None) or {})
    else:
        config = arguments.pop("config")
        config = config.to_dict() if hasattr(config, "to_dict") else config
    connections = {}
    for alias, info in config["connections"].items():
        connection = dict(expand_db_url(info) if isinstance(info, str) else info)
        # SQLite has no pool, and would treat each credential as a PRAGMA.
        if not connection["engine"].endswith("sqlite"):
            connection["credentials"] = {**connection["credentials"], **credentials}
        connections[alias] = connection
    return {**config, "connections": connections}


def _pool(options: Mapping[str, Any]) -> dict[str, Any]:
    """Credentials from `connection_config`, `minsize` and `maxsize`."""
    given: dict[str, Any] = dict(options.get("connection_config") or {})
    given.update((name, options[name]) for name in ("minsize", "maxsize") if name in options)
    credentials = {_POOL_SIZES.get(name, name): value for name, value in given.items()}
    low, high = credentials.get("minsize", 1), credentials.get("maxsize", 5)
    if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= max(high, 1)):
        raise ConfigurationError(
            f"minsize {low!r} and maxsize {high!r} must be whole numbers, and minsize not above "
            f"maxsize (by default 1 and 5)"
        )
    return credentials
