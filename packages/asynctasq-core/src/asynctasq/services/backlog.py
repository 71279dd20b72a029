"""Looks at core's tables in the application's databases: the outbox's backlog and missing tables.

Owns the rule that only an application which uses these tables hears about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Any

from ..adapters.plugins import Adapter
from ..adapters.statements import Database, Statement
from ..config.settings import Config
from ..sending import tables
from ..sending.outbox import Outbox
from ..tasks.task import registry


@dataclass(frozen=True, slots=True)
class Backlog:
    """The outbox of one database.

    Attributes:
        waiting: How many messages it holds; `None` if it cannot be read.
        oldest_seconds: Age of the oldest message since its dispatch; `None` if there is none.
        missing: The tables that cannot be read.
        reason: Why they cannot be read.
        creation: The SQL statements that create them.
    """

    database: str
    waiting: int | None
    oldest_seconds: float | None = None
    missing: Sequence[str] = ()
    reason: str = ""
    creation: Sequence[str] = ()


def has_atomic_tasks(config: Config) -> bool:
    """Whether any task in this process is atomic."""
    return any(task.options(config.task_defaults).atomic for task in registry.values())


async def backlogs(config: Config, outbox: Outbox) -> list[Backlog]:
    """The backlog of each database; empty if neither an outbox nor atomic tasks are in use."""
    if not (config.outbox or has_atomic_tasks(config)):
        return []
    found = [
        await _look(outbox, adapter, database)
        for adapter, database in outbox.databases()
        if not await _is_brokers(outbox, adapter, database)
    ]
    has_some = any(not backlog.missing for backlog in found)
    if has_some and not config.outbox:
        # Atomic tasks may use only one of several databases.
        return [backlog for backlog in found if not backlog.missing]
    return found


async def _is_brokers(outbox: Outbox, adapter: Adapter, database: Database) -> bool:
    """Whether it needs no tables; one that cannot be reached is looked at, which says why."""
    try:
        return await outbox.needs_no_tables(adapter, database)
    except Exception:  # noqa: BLE001 - a driver's own
        return False


async def _look(outbox: Outbox, adapter: Adapter, database: Database) -> Backlog:
    missing, reason = [], ""
    for table in (tables.OUTBOX, tables.DONE):
        try:
            await _ask(outbox, adapter, database, tables.presence(table))
        except Exception as e:  # noqa: BLE001 - a driver's error, which the backlog reports
            missing.append(table)
            reason = f"{type(e).__name__}: {e}".partition("\n")[0]
    if missing:
        creation = [statement.sql for statement in tables.creation(database.dialect)]
        return Backlog(database.name, None, None, missing, reason, creation)
    [(count, oldest)] = await _ask(outbox, adapter, database, tables.count_and_oldest())
    age = None if oldest is None else max(0.0, time() - tables.dispatched_at(str(oldest)))
    return Backlog(database.name, int(count), age)


async def _ask(
    outbox: Outbox, adapter: Adapter, database: Database, statement: Statement
) -> Sequence[Sequence[Any]]:
    async with outbox.transaction(adapter, database) as run:
        return await run(statement)
