"""The server's address: turns a `RedisConfig` into arguments for redis-py's connections."""

from __future__ import annotations

import os
from typing import Any

from redis.connection import parse_url

from ...errors import ConfigurationError
from .config import RedisConfig
from .url import check_url


class Address:
    """One server, a set of Sentinels, or the first node of a cluster.

    Attributes:
        options: Arguments of every connection, including its place, without its kind and limits.
        tls: Whether to use TLS.
        name: The address for log lines and errors; without credentials.
    """

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        check_url(config.url)
        #: Host and port of each Sentinel.
        self.sentinel_nodes = [_sentinel(text) for text in config.sentinels]
        options: dict[str, Any] = dict(parse_url(config.url))
        self.tls = config.url.startswith("rediss:")
        options.pop("connection_class", None)
        for name in ("username", "password"):
            if getattr(config, name) is not None:
                options[name] = getattr(config, name)
        if "path" not in options:
            options.setdefault("host", "localhost")
            options.setdefault("port", 6379)
        if config.cluster:
            _check_cluster(config, options)
        if self.tls:
            _check_files(config)
        self.options = options | {"socket_connect_timeout": config.connect_timeout}
        self.name = self._name()

    def _name(self) -> str:
        config, options = self.config, self.options
        place = options.get("path") or f"{options['host']}:{options['port']}"
        if config.sentinels:
            place = f"{config.sentinel_master} via {','.join(config.sentinels)}"
        kind = "redis cluster" if config.cluster else "redis"
        return f"{kind} {place}/{options.get('db', 0)}"

    @property
    def credentials(self) -> dict[str, Any]:
        """All options but the place: those that all nodes of one installation share."""
        return {k: v for k, v in self.options.items() if k not in ("host", "port", "path")}

    @property
    def tls_options(self) -> dict[str, Any]:
        """Arguments of a TLS connection; empty without TLS."""
        if not self.tls:
            return {}
        config = self.config
        return {
            "ssl_ca_certs": config.ssl_ca_certs,
            "ssl_certfile": config.ssl_certfile,
            "ssl_keyfile": config.ssl_keyfile,
            "ssl_check_hostname": config.ssl_check_hostname,
        }

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """Arguments of connections to the Sentinels themselves."""
        config = self.config
        return {
            "username": config.sentinel_username,
            "password": config.sentinel_password,
            "socket_timeout": config.connect_timeout,
            "socket_connect_timeout": config.connect_timeout,
        }


def _sentinel(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    is_number = port.isascii() and port.isdigit()
    in_brackets = host.startswith("[") and host.endswith("]")
    if not (is_number and 0 < int(port) < 65536) or (":" in host and not in_brackets):
        raise ConfigurationError(_NO_SENTINEL.format(text))
    host = host[1:-1] if in_brackets else host
    if not host or set(host) & set("/@[] \t"):
        raise ConfigurationError(_NO_SENTINEL.format(text))
    return host, int(port)


_NO_SENTINEL = (
    "redis.sentinels: {!r:.200} is not host:port, such as sentinel-1:26379 or [::1]:26379"
)


def _check_files(config: RedisConfig) -> None:
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = getattr(config, name)
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigurationError(f"redis.{name}: {path} cannot be read as a file")


def _check_cluster(config: RedisConfig, options: dict[str, Any]) -> None:
    if config.sentinels:
        raise ConfigurationError("redis.cluster and redis.sentinels exclude each other")
    if "path" in options:
        raise ConfigurationError("redis.cluster needs a redis:// or rediss:// URL of one node")
    if options.pop("db", 0):
        raise ConfigurationError("a Redis cluster has database 0 only; redis.url names another")
