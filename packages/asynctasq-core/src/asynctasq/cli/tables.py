"""`asynctasq tables`: the tables that core keeps in databases of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click

from ..adapters.plugins import Adapter
from ..adapters.statements import Database
from ..app import App
from ..errors import ConfigurationError
from ..sending import tables
from .application import loaded, module_option


@click.group("tables")
def command() -> None:
    """The tables of the outbox and of atomic tasks."""


@command.command("print")
@module_option
def print_(modules: tuple[str, ...]) -> None:
    """Print what creates the tables in each database."""
    for _, database in _databases(loaded(modules)):
        click.echo(f"-- {database.name}")
        for statement in tables.creation(database.dialect):
            click.echo(f"{statement.sql};")


@command.command("create")
@module_option
def create(modules: tuple[str, ...]) -> None:
    """Create the tables that are missing.

    Where migrations are in use, let those create them: each ORM's page says how.
    """
    app = loaded(modules)
    for adapter, database in _databases(app):
        asyncio.run(_create(adapter, database))
        click.echo(f"created in {database.name}")


def _databases(app: App) -> Iterator[tuple[Adapter, Database]]:
    found = False
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
