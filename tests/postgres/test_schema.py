"""The tables: who makes them, of which version they are, and what else may be in the database."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from asynctasq import BrokerError, BrokerUnavailable, ConfigurationError
from asynctasq.brokers import Broker, KeepingTables, Outgoing
from asynctasq_postgres import Config, main_option
from asynctasq_postgres import open as open_broker
from asynctasq_postgres.broker import PostgresBroker

from ..missing import missing
from .brokers import postgres_brokers


def sql(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements, each by itself; the rows of the last."""
    rows: list[tuple[object, ...]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
    return rows


@pytest.fixture
def schema() -> str:
    """A name that nobody uses."""
    return f"test_{uuid4().hex[:12]}"


@pytest.fixture
def poor(url: str) -> Iterator[str]:
    """The URL for a role that may create nothing."""
    name = f"poor_{uuid4().hex[:12]}"
    sql(url, f"CREATE ROLE {name} LOGIN")
    yield url.replace("postgres@", f"{name}@")
    sql(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def message(message_id: str = "a") -> Outgoing:
    return Outgoing("default", message_id, b"body")


def command(url: str, schema: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `asynctasq` on this schema."""
    settings = {"DRIVER": "postgres", "POSTGRES_URL": url, "POSTGRES_SCHEMA": schema, "PLUGINS": ""}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
    return subprocess.run(
        [sys.executable, "-m", "asynctasq", *arguments],
        env={**inherited, **{f"ASYNCTASQ_{k}": v for k, v in settings.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_many_who_find_no_tables_at_once_make_them_once(url: str, schema: str) -> None:
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        brokers = [open_one() for _ in range(8)]
        await asyncio.gather(*(b.put([message(f"{i}")]) for i, b in enumerate(brokers)))
        assert [stats.waiting for stats in await brokers[0].stats()] == [8]


async def test_a_role_that_may_create_nothing_is_told_what_to_run(
    poor: str, url: str, schema: str
) -> None:
    async with postgres_brokers(Config(url=poor, schema=schema)) as open_one:
        with pytest.raises(BrokerError, match="asynctasq tables create") as caught:
            await open_one().put([message()])
        assert not isinstance(caught.value, BrokerUnavailable)
        done = command(url, schema, "tables", "create")
        assert (done.returncode, done.stderr) == (0, "")
        role = psycopg.conninfo.conninfo_to_dict(poor)["user"]
        # As the page says.
        sql(
            url,
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
            f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}",
        )
        broker = open_one()
        await broker.put([message()])
        assert await broker.state("default", "a") == "waiting"
        assert [f for f in await broker.check() if f.level == "error"] == []


async def test_what_is_printed_makes_the_same_tables(url: str, schema: str) -> None:
    printed = command(url, schema, "tables", "print")
    assert printed.returncode == 0, printed.stderr
    sql(url, printed.stdout)
    by_hand = _shape(url, schema)
    sql(url, f"DROP SCHEMA {schema} CASCADE")
    assert command(url, schema, "tables", "create").returncode == 0
    assert _shape(url, schema) == by_hand
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        await open_one().put([message()])


def _shape(url: str, schema: str) -> list[tuple[object, ...]]:
    return sql(
        url,
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        f" WHERE table_schema = '{schema}'"
        " UNION ALL SELECT proname, pg_get_function_arguments(p.oid), prosrc FROM pg_proc p"
        f" WHERE pronamespace = '{schema}'::regnamespace ORDER BY 1, 2, 3",
    )


async def test_older_tables_are_upgraded_by_the_command_only(url: str, schema: str) -> None:
    command(url, schema, "tables", "create")
    sql(
        url,
        f"UPDATE {schema}.version SET number = 0, understood_from = 0",
        f"DROP FUNCTION {schema}.cancel",
    )
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        with pytest.raises(BrokerError, match="asynctasq tables upgrade"):
            await open_one().put([message()])


async def test_the_first_version_is_upgraded_under_those_who_use_it(url: str, schema: str) -> None:
    command(url, schema, "tables", "create")
    former = "integer, text[], integer, double precision, integer[], bigint[]"
    claim = "integer, bigint, text[], integer, integer[], bigint[], boolean"
    sql(
        url,
        f"UPDATE {schema}.version SET number = 1",
        f"DROP FUNCTION {schema}.take({former}, boolean)",
        f"CREATE FUNCTION {schema}.take({former}) RETURNS text LANGUAGE sql AS $$SELECT 'old'$$",
        f"DROP FUNCTION {schema}.claim({claim}, boolean)",
        f"CREATE FUNCTION {schema}.claim({claim}) RETURNS text LANGUAGE sql AS $$SELECT 'old'$$",
        f"CREATE FUNCTION {schema}.run_line(integer, integer, integer, bigint) RETURNS text"
        " LANGUAGE sql AS $$SELECT 'old'$$",
    )
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        with pytest.raises(BrokerError, match="asynctasq tables upgrade"):
            await open_one().put([message()])
        done = command(url, schema, "tables", "upgrade")
        assert (done.returncode, done.stderr) == (0, "")
        await open_one().put([message()])
    # As a worker of the first version calls it, who does not know the last argument.
    announced = f"{schema}.announce('old', '', 1, '{{default}}', 1, 1, false, 30, '{{default}}')"
    take = f"SELECT id FROM {schema}.take({announced}, '{{default}}', 1, 30, '{{}}', '{{}}')"
    assert sql(url, take) == [("a",)]


async def test_upgrading_what_is_up_to_date_changes_nothing_that_is_queued(
    url: str, schema: str
) -> None:
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        broker = open_one()
        await broker.put([message()])
        done = command(url, schema, "tables", "upgrade")
        assert (done.returncode, done.stderr) == (0, "")
        assert await broker.state("default", "a") == "waiting"


async def test_later_tables_are_used_if_they_allow_it_and_never_changed(
    url: str, schema: str
) -> None:
    command(url, schema, "tables", "create")
    sql(url, f"UPDATE {schema}.version SET number = 99")
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        await open_one().put([message()])
        sql(url, f"UPDATE {schema}.version SET understood_from = 99")
        for call in (open_one().stats, open_one().create_tables):
            with pytest.raises(BrokerError, match="does not understand; upgrade it"):
                await call()
    assert sql(url, f"SELECT number FROM {schema}.version") == [(99,)]


async def test_tables_that_are_dropped_while_in_use_are_made_anew(url: str, schema: str) -> None:
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        broker = open_one()
        await broker.put([message()])
        sql(url, f"DROP SCHEMA {schema} CASCADE")
        await broker.put([message("b")])
        assert await broker.state("default", "a") is None
        assert await broker.state("default", "b") == "waiting"


async def test_applications_share_a_database_by_schemas(url: str, schema: str) -> None:
    one, two = Config(url=url, schema=schema), Config(url=url, schema=f"{schema}_2")
    async with postgres_brokers(one) as open_one, postgres_brokers(two) as open_two:
        await open_one().put([message()])
        assert await open_two().state("default", "a") is None
        assert await open_two().stats() == []


async def test_a_dump_is_restored_with_its_messages(url: str, schema: str) -> None:
    if shutil.which("pg_dump") is None:
        missing("no pg_dump")
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        broker = open_one()
        await broker.put([message("a"), message("b")])
        dumped = subprocess.run(
            ["pg_dump", "--schema", schema, url], capture_output=True, text=True, check=False
        )
        if "server version mismatch" in dumped.stderr:
            missing("pg_dump is older than the server")
        assert dumped.returncode == 0, dumped.stderr
        await broker.close()
        sql(url, f"DROP SCHEMA {schema} CASCADE")
        subprocess.run(
            ["psql", "-q", "-v", "ON_ERROR_STOP=1", url],
            input=dumped.stdout,
            text=True,
            check=True,
            capture_output=True,
        )
        await broker.put([message("b"), message("c")])
        assert [stats.waiting for stats in await broker.stats()] == [3]


@pytest.mark.parametrize("name", ["Ünique", "a-b", "A", "", "a" * 64, 'x"; DROP'])
def test_a_schema_has_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"postgres\.schema"):
        open_broker(Config(schema=name))


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"postgres\.url"):
        open_broker(Config(url="mysql://localhost/x"))


def test_the_url_of_sqlalchemy_will_do_and_nothing_secret_is_shown() -> None:
    config = Config(url="postgresql+asyncpg://user:s3cret@host:5/db?sslpassword=s3cret")
    broker: Broker = PostgresBroker(config)
    assert broker.describe() == "postgres host:5/db schema asynctasq"
    assert "s3cret" not in repr(config)
    assert main_option == "url"
    assert isinstance(broker, KeepingTables)


def test_a_broker_without_tables_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asynctasq", "tables", "upgrade"],
        env={**os.environ, "ASYNCTASQ_DRIVER": "memory"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "keeps no tables" in done.stderr


async def test_the_doctor_names_what_holds_back_vacuum(
    url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynctasq_postgres.doctor._LONG_SECONDS", 0)
    async with postgres_brokers(Config(url=url, schema=schema)) as open_one:
        await open_one().put([message()])
        with psycopg.connect(url, application_name="forgotten") as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("SELECT")
            findings = await open_one().check()
        [text] = [f.text for f in findings if "forgotten" in f.text]
        assert "vacuuming" in text


def test_nothing_of_the_client_is_imported_with_the_options(tmp_path: Path) -> None:
    code = "import asynctasq, asynctasq_postgres, sys; print('asyncpg' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
