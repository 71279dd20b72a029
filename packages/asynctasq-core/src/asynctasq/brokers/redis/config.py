"""The Redis broker's options: where Redis is and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Where Redis (6.2 or later) or Valkey is and how to reach it.

    Attributes:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database.
        cluster: Whether `url` is a node of a Redis Cluster.
        sentinels: `host:port` of each Sentinel; `url` then gives only credentials and database.
        sentinel_master: Name of the master that the Sentinels watch.
        sentinel_username: Username for the Sentinels themselves.
        sentinel_password: Password for the Sentinels themselves.
        username: Overrides the one in `url`.
        password: Overrides the one in `url`; never shown.
        ssl_ca_certs: File with the certificate authorities to trust.
        ssl_certfile: File with the client certificate.
        ssl_keyfile: File with the client certificate's key.
        ssl_check_hostname: Whether the server's certificate must match its host name.
        key_prefix: First part of every key.
        connect_timeout: Seconds that connecting may take.
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
