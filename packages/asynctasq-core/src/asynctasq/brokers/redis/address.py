"""Where the server is: from `RedisConfig` to the arguments of redis-py's connections."""

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
        options: Arguments of every connection, the place included, the kind and limits left out.
        tls: Whether to use TLS.
        name: For log lines and errors; without credentials.
    """

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        check_url(config.url)
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
        """Everything but the place: what all nodes of one installation share."""
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
    def sentinel_nodes(self) -> list[tuple[str, int]]:
        """Host and port of each Sentinel."""
        nodes = []
        for text in self.config.sentinels:
            host, _, port = text.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ConfigurationError(f"redis.sentinels: {text!r} is not host:port")
            nodes.append((host.strip("[]"), int(port)))
        return nodes

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


def _check_files(config: RedisConfig) -> None:
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = getattr(config, name)
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigurationError(f"redis.{name}: {path} is no file that can be read")


def _check_cluster(config: RedisConfig, options: dict[str, Any]) -> None:
    if config.sentinels:
        raise ConfigurationError("redis.cluster and redis.sentinels exclude each other")
    if "path" in options:
        raise ConfigurationError("redis.cluster needs a redis:// or rediss:// URL of one node")
    if options.pop("db", 0):
        raise ConfigurationError("a Redis cluster has database 0 only; redis.url names another")
