"""What `asynctasq doctor` says about the databases in Django's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from asynctasq import Finding
from django.conf import settings
from django.db import Error, connections

from .lanes import call_loader


async def check() -> Iterable[Finding]:
    """Check each database: whether it answers, and whether its settings hurt a worker."""
    findings: list[Finding] = []
    for alias in connections.settings:
        findings.append(await call_loader(_reach, alias))
        findings.extend(_look_at(alias, connections.settings[alias]))
    if "asynctasq_django" not in settings.INSTALLED_APPS:
        findings.append(
            Finding(
                "warning",
                "django",
                "asynctasq_django is not among INSTALLED_APPS, so settings.ASYNCTASQ applies in "
                "workers alone",
                "add it",
            )
        )
    return findings


def _reach(alias: str) -> Finding:
    subject = f"django database {alias!r}"
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error as e:
        return Finding(
            "error", subject, f"no answer: {type(e).__name__}", "check its entry in DATABASES"
        )
    return Finding("ok", subject, f"{connections[alias].display_name} answers")


def _look_at(alias: str, database: dict[str, Any]) -> Iterator[Finding]:
    subject = f"django database {alias!r}"
    if database["ENGINE"].endswith("sqlite3"):
        yield _sqlite(subject)
    elif pool := database["OPTIONS"].get("pool"):
        yield _pool(subject, pool)
    else:
        yield from _connections(subject, database)
    if database["ATOMIC_REQUESTS"]:
        yield Finding(
            "ok",
            subject,
            "ATOMIC_REQUESTS: a dispatch from a view that has written waits for the end of the "
            "request",
        )


def _sqlite(subject: str) -> Finding:
    return Finding(
        "ok" if settings.DEBUG else "warning",
        subject,
        "SQLite lets one process write at a time",
        "" if settings.DEBUG else "use PostgreSQL or MySQL with several worker processes",
    )


def _connections(subject: str, database: dict[str, Any]) -> Iterator[Finding]:
    if database["CONN_MAX_AGE"] == 0:
        yield Finding(
            "warning",
            subject,
            "CONN_MAX_AGE is 0: each task that queries opens a connection",
            "set CONN_MAX_AGE, or with psycopg OPTIONS['pool']",
        )
    elif not database["CONN_HEALTH_CHECKS"]:
        yield Finding(
            "warning",
            subject,
            "connections are kept but not checked: the first task after a restart of the "
            "database fails",
            "set CONN_HEALTH_CHECKS to True",
        )


def _pool(subject: str, pool: Any) -> Finding:
    """Check the pool's size: psycopg's default is 4 connections, and a task without one waits."""
    options = pool if isinstance(pool, dict) else {}
    size = options.get("max_size") or options.get("min_size", 4)
    return Finding(
        "ok" if "max_size" in options else "warning",
        subject,
        f"a pool of {size} connections: no more tasks of a worker process query at once",
        "" if "max_size" in options else "set OPTIONS['pool']['max_size'] to the concurrency",
    )
