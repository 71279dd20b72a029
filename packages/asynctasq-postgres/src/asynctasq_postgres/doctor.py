"""What `asynctasq doctor` says about the server."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import asyncpg
from asynctasq import BrokerError
from asynctasq.brokers import Finding

from .failures import ERRORS
from .server import Server

_OLDEST = 130000
#: Due times come from the sender's clock, everything else from the server's.
_MOST_SKEW_SECONDS = 1.0
#: Rows deleted since the oldest open transaction began cannot be vacuumed; every scan passes them.
_LONG_SECONDS = 300
_NOTIFICATION_SECONDS = 2.0

_FACTS = """
SELECT current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS version_text,
    extract(epoch FROM clock_timestamp())::float8 AS now,
    current_setting('max_connections')::int AS most_connections,
    (SELECT count(*) FROM pg_stat_activity) AS connections,
    current_setting('autovacuum')::bool AS autovacuum,
    current_setting('transaction_isolation') AS isolation,
    current_setting('synchronous_commit') AS synchronous_commit
"""
# Sessions of other roles show their times only to members of pg_read_all_stats.
_HOLDS = """
SELECT 'process ' || pid || ' (' || coalesce(nullif(application_name, ''), 'unnamed') || '), '
        || coalesce(state, 'state hidden') AS what,
    extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
    AND xact_start < clock_timestamp() - make_interval(secs => $1)
UNION ALL
SELECT 'prepared transaction ' || gid, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts
WHERE prepared < clock_timestamp() - make_interval(secs => $1)
UNION ALL
SELECT 'unused replication slot ' || slot_name, NULL
FROM pg_replication_slots WHERE NOT active AND xmin IS NOT NULL
ORDER BY 2 DESC NULLS LAST LIMIT 5
"""


async def check_server(server: Server) -> list[Finding]:
    """Check for what could lose messages or stop workers; each problem becomes a finding."""
    subject = server.address.name
    try:
        before = time.time()
        [facts] = await server.ask(_FACTS)
        skew_seconds = facts["now"] - (before + time.time()) / 2
        holds = await server.ask(_HOLDS, float(_LONG_SECONDS))
    except BrokerError as e:
        advice = "check postgres.url, and `asynctasq tables create`"
        return [Finding("error", subject, str(e), advice)]
    return [
        _version(subject, facts),
        _clock(subject, skew_seconds),
        _durability(subject, facts),
        *_isolation(subject, facts),
        *_vacuum(subject, facts),
        *(_hold(subject, hold) for hold in holds),
        *_connections(subject, facts),
        await _notifications(server),
    ]


def _version(subject: str, facts: Any) -> Finding:
    version = facts["version_text"]
    if facts["version"] < _OLDEST:
        text = f"PostgreSQL {version} is too old"
        return Finding("error", subject, text, "use PostgreSQL 13 or later")
    return Finding("ok", subject, f"reachable, PostgreSQL {version}")


def _clock(subject: str, skew_seconds: float) -> Finding:
    if abs(skew_seconds) <= _MOST_SKEW_SECONDS:
        return Finding("ok", subject, f"clocks differ by {abs(skew_seconds):.2f} s")
    return Finding(
        "warning",
        subject,
        f"the server's clock is {skew_seconds:+.1f} s from this machine's",
        "synchronise both clocks (NTP): tasks sent with at(...) start early or late by as much",
    )


def _durability(subject: str, facts: Any) -> Finding:
    if facts["synchronous_commit"] != "off":
        return Finding("ok", subject, f"synchronous_commit {facts['synchronous_commit']}")
    return Finding(
        "warning",
        subject,
        "synchronous_commit is off: what was dispatched last is lost when the server dies",
        "set it on for this role: ALTER ROLE ... SET synchronous_commit = on",
    )


def _isolation(subject: str, facts: Any) -> list[Finding]:
    if facts["isolation"] == "read committed":
        return []
    text = f"transactions are {facts['isolation']}: they do not see what others commit meanwhile"
    advice = "ALTER ROLE ... SET default_transaction_isolation = 'read committed'"
    return [Finding("error", subject, text, advice)]


def _vacuum(subject: str, facts: Any) -> list[Finding]:
    if facts["autovacuum"]:
        return []
    text = "autovacuum is off: without regular VACUUMs, tables grow and taking calls becomes slow"
    return [Finding("warning", subject, text, "set autovacuum = on")]


def _hold(subject: str, hold: Any) -> Finding:
    age = "" if hold["seconds"] is None else f" for {hold['seconds'] / 60:.0f} minutes"
    return Finding(
        "warning",
        subject,
        f"{hold['what']} has kept the server from vacuuming{age}",
        "end it, and set idle_in_transaction_session_timeout: rows deleted meanwhile pile up",
    )


def _connections(subject: str, facts: Any) -> list[Finding]:
    used, most = facts["connections"], facts["most_connections"]
    if used < 0.9 * most:
        return []
    text = f"{used} of {most} connections are in use"
    return [Finding("warning", subject, text, "raise max_connections, or put pgbouncer in front")]


async def _notifications(server: Server) -> Finding:
    """Check that notifications come through; pgbouncer's transaction mode lets none pass."""
    subject = f"{server.address.name} notifications"
    arrived = asyncio.Event()
    channel = f"{server.address.config.schema[:50]}_doctor"
    try:
        connection = await asyncpg.connect(**server.address.listen_options, statement_cache_size=0)
        try:
            await connection.add_listener(channel, lambda *_: arrived.set())
            await server.ask("SELECT pg_notify($1, '')", channel)
            with suppress(TimeoutError):
                async with asyncio.timeout(_NOTIFICATION_SECONDS):
                    await arrived.wait()
        finally:
            await connection.close(timeout=_NOTIFICATION_SECONDS)
    except (*ERRORS, BrokerError) as e:
        text = f"the connection for notifications failed: {type(e).__name__}"
        return Finding("error", subject, text, "check postgres.listen_url")
    if arrived.is_set():
        return Finding("ok", subject, "notifications come through")
    return Finding(
        "warning",
        subject,
        "notifications do not come through: idle workers find work only by polling",
        "set postgres.listen_url to an address that bypasses pgbouncer",
    )
