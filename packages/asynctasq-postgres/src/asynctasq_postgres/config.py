"""Where PostgreSQL is, and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresConfig:
    """Where PostgreSQL (13 or later) is, and how to reach it.

    Attributes:
        url: `postgresql://`, with user, password, database, and parameters of libpq such as
            `sslmode`; several hosts with `target_session_attrs=read-write` for failover.
        listen_url: A URL for notifications that bypasses pgbouncer, whose transaction mode lets
            none through; by default `url`.
        password: Used instead of the one in `url`; never shown.
        schema: The schema of the tables; one for each application that shares a database.
        pool_size: Maximum number of connections, besides one for notifications and one for leases.
        poll_interval: Seconds between looks for work while notifications come; half a second
            otherwise.
        connect_timeout: Seconds that connecting may take.
        timeout: Seconds that any answer may take; also bounds `dispatch`.
    """

    url: str = field(default="postgresql://localhost:5432/postgres", repr=False)
    listen_url: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    schema: str = "asynctasq"
    pool_size: int = 5
    poll_interval: float = 1.0
    connect_timeout: float = 3.0
    timeout: float = 5.0
