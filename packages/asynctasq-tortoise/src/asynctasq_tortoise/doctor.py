"""What `asynctasq doctor` checks: databases, pools, time zone, modules, indexes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib import import_module
from typing import Any

from asynctasq import Finding, ReferenceUnavailable

from . import lifecycle

#: Statements that return the server's limit on connections, and how many there are.
_CONNECTIONS = {
    "postgres": (
        "SELECT current_setting('max_connections')::int AS allowed, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used"
    ),
    "mysql": (
        "SELECT @@max_connections AS allowed, "
        "(SELECT count(*) FROM information_schema.processlist) AS used"
    ),
}


async def check() -> Sequence[Finding]:
    """All findings; closes the connections that it opened."""
    config = lifecycle.configured()
    if config is None and not lifecycle.is_initialised():
        if "tortoise" not in sys.modules:
            return []
        return [
            Finding(
                "warning",
                "tortoise",
                "no tortoise_config: each task has to initialise Tortoise itself",
                "pass tortoise_config to asynctasq.init, so that every worker is set up alike",
            )
        ]
    if broken := list(_modules(config or {})):
        return broken
    try:
        await lifecycle.ensure_initialised()
    except ReferenceUnavailable as e:
        advice = f"{type(e.__cause__).__name__}: check tortoise_config"
        return [Finding("error", "tortoise", str(e), advice)]
    try:
        return [f async for f in _connections()] + list(_time_zone()) + list(_models())
    finally:
        await lifecycle.close()


def _modules(config: Any) -> Iterator[Finding]:
    apps = config.get("apps") or (config.get("config") or {}).get("apps") or {}
    listed = [app.get("models", ()) for app in apps.values()]
    for names in [*listed, *(config.get("modules") or {}).values()]:
        for name in [names] if isinstance(names, str) else names:
            try:
                import_module(name) if isinstance(name, str) else None
            except Exception as e:  # noqa: BLE001 - the application's module; reported
                yield Finding(
                    "error",
                    "tortoise modules",
                    f"{name} cannot be imported: {type(e).__name__}: {e}",
                    "correct `modules`: it has to list every module that holds models",
                )


async def _connections() -> AsyncIterator[Finding]:
    from tortoise.connection import connections

    for alias in connections.db_config:
        client = connections.get(alias)
        subject = f"tortoise connection {alias}"
        if getattr(client, "filename", None) == ":memory:":
            yield Finding(
                "error",
                subject,
                "an in-memory database: each process sees an empty one of its own",
                "use a file or a server for workers",
            )
            continue
        try:
            await client.execute_query("SELECT 1")
        except Exception as e:  # noqa: BLE001 - reported; any driver's error
            advice = "check host, credentials and that the database runs; its tasks wait"
            yield Finding("error", subject, f"does not answer: {type(e).__name__}", advice)
            continue
        yield Finding("ok", subject, f"{client.capabilities.dialect} answers")
        if hasattr(client, "pool_maxsize"):
            for finding in await _pool(client, subject):
                yield finding


async def _pool(client: Any, subject: str) -> list[Finding]:
    low, high = client.pool_minsize, client.pool_maxsize
    subject += " pool"
    found = [Finding("ok", subject, f"minsize {low}, maxsize {high} in each worker process")]
    if high <= 5:
        text = f"at most {high} queries of one worker process run at once; others wait"
        advice = "set maxsize nearer to the worker's --concurrency"
        found.append(Finding("warning", subject, text, advice))
    if statement := _CONNECTIONS.get(client.capabilities.dialect):
        row = dict((await client.execute_query(statement))[1][0])
        allowed, used = int(row["allowed"]), int(row["used"])
        text = f"the server has {used} of {allowed} connections in use"
        if high * 2 > allowed:
            advice = "lower maxsize: all worker processes together must stay below the limit"
            found.append(Finding("warning", subject, text, advice))
        else:
            found.append(Finding("ok", subject, text))
    if client.capabilities.dialect == "mysql" and client.extra.get("pool_recycle", -1) < 0:
        text = "connections that the server closed while idle fail at their next use"
        advice = "set pool_recycle=3600 in the connection's credentials"
        found.append(Finding("warning", subject, text, advice))
    return found


def _time_zone() -> Iterator[Finding]:
    from tortoise.timezone import get_timezone, get_use_tz

    if not get_use_tz():
        advice = "set use_tz=True: aware and naive datetimes cannot be compared"
        yield Finding("warning", "tortoise time zone", "use_tz is off", advice)
    elif get_timezone() != "UTC":
        text = f"timezone is {get_timezone()!r}"
        advice = "set timezone='UTC', and the same in every process that dispatches"
        yield Finding("warning", "tortoise time zone", text, advice)


def _models() -> Iterator[Finding]:
    from tortoise import Tortoise

    for name, models in (Tortoise.apps or {}).items():
        if not models:
            advice = "list the modules that define the models"
            yield Finding("error", "tortoise modules", f"app {name!r} has no models", advice)
        for model in models.values():
            if missing := sorted(_unindexed(model)):
                text = f"{model.__name__}: no index on {', '.join(missing)}"
                advice = "add db_index=True to the foreign key, or Meta.indexes"
                yield Finding("warning", "tortoise indexes", text, advice)


def _unindexed(model: Any) -> Iterator[str]:
    """Foreign keys with which no index starts; MySQL creates one by itself."""
    meta = model._meta
    if meta.db.capabilities.dialect == "mysql":
        return
    several = [getattr(index, "fields", index) for index in meta.indexes]
    leading = {fields[0] for fields in [*several, *meta.unique_together] if fields}
    for name in meta.fk_fields:
        column = meta.fields_map[name].source_field
        field = meta.fields_map[column]
        if not (field.index or field.unique or field.pk or {name, column} & leading):
            yield name
