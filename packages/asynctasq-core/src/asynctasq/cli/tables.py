"""`asynctasq tables`: tables of core and of the broker in the application's databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click

from ..adapters.plugins import Adapter
from ..adapters.statements import Database
from ..app import App
from ..brokers import Broker, KeepingTables
from ..brokers.opening import open_broker
from ..errors import ConfigurationError
from ..sending import tables
from .application import loaded, module_option, with_broker


@click.group("tables")
def command() -> None:
    """Tables of the outbox, of atomic tasks, and of a broker that keeps some."""


@command.command("print")
@module_option
def print_(modules: tuple[str, ...]) -> None:
    """Print the SQL that creates the tables in each database."""
    app = loaded(modules)
    broker = _keeping_tables(app)
    if broker is not None:
        click.echo(broker.tables())
    for _, database in _databases(app, has_others=broker is not None):
        click.echo(f"-- {database.name}")
        for statement in tables.creation(database.dialect):
            click.echo(f"{statement.sql};")


@command.command("create")
@module_option
def create(modules: tuple[str, ...]) -> None:
    """Create missing tables.

    If you use migrations, let those create them: each ORM's page says how.
    """
    app = loaded(modules)
    broker = _keeping_tables(app)
    if broker is not None:
        _create_of_broker(app)
    for adapter, database in _databases(app, has_others=broker is not None):
        asyncio.run(_create(adapter, database))
        click.echo(f"created in {database.name}")


@command.command("upgrade")
@module_option
def upgrade(modules: tuple[str, ...]) -> None:
    """Upgrade the broker's tables to the version installed here; creates missing ones."""
    app = loaded(modules)
    if _keeping_tables(app) is None:
        raise ConfigurationError(f"the broker {app.config.driver!r} keeps no tables to upgrade")
    _create_of_broker(app)


def _keeping_tables(app: App) -> KeepingTables | None:
    """The broker, not connected, if it keeps tables."""
    broker = open_broker(app.config)
    return broker if isinstance(broker, KeepingTables) else None


def _create_of_broker(app: App) -> None:
    async def create_tables(broker: Broker) -> str:
        assert isinstance(broker, KeepingTables)
        await broker.create_tables()
        return broker.describe()

    click.echo(f"created in {with_broker(app, create_tables)}")


def _databases(app: App, *, has_others: bool) -> Iterator[tuple[Adapter, Database]]:
    """The databases that adapters know; none is an error unless there is something else to do."""
    found = has_others
    for adapter in app.adapters.with_hook("databases"):
        for database in adapter.databases():  # type: ignore[misc]
            found = True
            yield adapter, database
    if not found:
        raise ConfigurationError(
            "no installed adapter knows a database here: name the modules that configure the ORM "
            "with -m"
        )


async def _create(adapter: Adapter, database: Database) -> None:
    assert adapter.own_transaction is not None
    async with adapter.own_transaction(database) as run:
        for statement in tables.creation(database.dialect):
            await run(statement)
