"""The tables of core by each way to make them: the same, and what `doctor` says without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asynctasq
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from asynctasq.adapters import plugins
from asynctasq.cli import cli
from asynctasq.sending import tables as core
from asynctasq_sqlalchemy import adapter, tables
from click.testing import CliRunner
from sqlalchemy import URL, MetaData, create_engine, inspect, text
from sqlalchemy.pool import NullPool

from .stores import Store

TABLES = (core.OUTBOX, core.DONE)

ENV = """
from alembic import context
from asynctasq_sqlalchemy import tables
from sqlalchemy import MetaData, create_engine, pool

metadata = MetaData()
tables(metadata)

def only_ours(name, kind, parents):
    return kind != "table" or name in {names!r}

engine = create_engine({url!r}, poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection, target_metadata=metadata, include_name=only_ours)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture(params=["postgres", "mysql", "sqlite"])
def url(request: pytest.FixtureRequest, database_url: Callable[[str], URL]) -> Iterator[URL]:
    """A database without these tables."""
    found = database_url(request.param)
    _drop(found)
    yield found
    _drop(found)


def _drop(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for table in (*TABLES, "alembic_version"):
            connection.execute(text(f"DROP TABLE IF EXISTS {table}"))


@pytest.fixture
def alembic(url: URL, tmp_path: Path) -> Config:
    """An Alembic project whose metadata has these tables."""
    config = Config(str(tmp_path / "alembic.ini"))
    command.init(config, str(tmp_path / "migrations"))
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    shown = url.render_as_string(hide_password=False)
    (tmp_path / "migrations" / "env.py").write_text(ENV.format(names=TABLES, url=shown))
    return config


def test_alembic_finds_them_makes_them_and_is_content_then(alembic: Config, url: URL) -> None:
    command.revision(alembic, "tables of asynctasq", autogenerate=True)
    command.upgrade(alembic, "head")
    command.check(alembic)
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        for table in TABLES:
            connection.execute(text(core.presence(table).sql))
        [index] = inspect(connection).get_indexes(core.DONE)
    assert index["column_names"] == ["done_at"]
    command.downgrade(alembic, "base")
    with engine.connect() as connection:
        assert not set(inspect(connection).get_table_names()) & set(TABLES)


def test_the_command_and_the_metadata_make_the_same(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    dialect: Any = engine.dialect.name
    metadata = MetaData(schema="elsewhere")
    assert tables(metadata) == tables(metadata)
    with engine.begin() as connection:
        for _ in range(2):
            for statement in core.creation(dialect):
                connection.execute(text(statement.sql))
        options = {
            "include_name": lambda name, kind, _: kind != "table" or name in TABLES,
            "compare_type": True,
        }
        assert (
            compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        )


def test_doctor_and_status_tell_of_tables_and_of_what_waits(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not Django's, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"sqlalchemy": adapter}))

    def output(*arguments: str) -> str:
        return CliRunner().invoke(cli, arguments).output

    with lite.setup() as session:
        for table in TABLES:
            session.execute(text(f"DROP TABLE IF EXISTS {table}"))
        session.commit()
    asynctasq.init(driver="memory")
    assert "asynctasq_outbox" not in output("doctor")
    asynctasq.init(driver="memory", outbox=True)
    missing = output("doctor")
    assert "asynctasq_outbox and asynctasq_done cannot be read" in missing
    assert "CREATE TABLE IF NOT EXISTS asynctasq_outbox" in missing
    assert "cannot be read" in output("status")
    assert "created in" in output("tables", "create")
    assert "0 calls are waiting in the outbox" in output("doctor")
    with lite.setup() as session:
        columns = "id, queue, body, priority"
        # As if it had been dispatched at the beginning of 2020.
        values = "'016f5e66e8000123456789abcdef0123', 'mail', '', 0"
        session.execute(text(f"INSERT INTO {core.OUTBOX} ({columns}) VALUES ({values})"))
        session.commit()
    assert "1 calls are waiting in the outbox, the oldest for" in output("doctor")
    assert '"waiting": 1' in output("status", "--json")
    with lite.setup() as session:
        session.execute(text(f"DELETE FROM {core.OUTBOX}"))
        session.commit()
