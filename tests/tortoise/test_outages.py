"""Which errors of drivers mean that the database could not answer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import psycopg
import pymysql
import pytest
from asynctasq_tortoise.adapter import is_outage as hook
from asynctasq_tortoise.outages import outage
from tortoise.exceptions import DBConnectionError, OperationalError

from ..servers import connect_mysql, mysql_url, postgres_url


@contextmanager
def as_tortoise_raises(kind: type[Exception]) -> Iterator[None]:
    """Errors of drivers inside the block come out as Tortoise's, as its clients do it."""
    try:
        yield
    except (sqlite3.Error, pymysql.Error) as e:
        raise kind(e)  # noqa: B904 - so do Tortoise's clients


def locked(folder: Path) -> None:
    path = folder / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as one:
        one.execute("CREATE TABLE t (id)")
        one.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("SELECT * FROM t")


def unreachable_file(folder: Path) -> None:
    sqlite3.connect(folder / "none" / "x.db")


def no_table(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "y.db")) as db:
        db.execute("SELECT * FROM nothing")


@pytest.mark.parametrize(
    ("failing", "is_outage"), [(locked, True), (unreachable_file, True), (no_table, False)]
)
def test_errors_of_sqlite(failing: object, is_outage: bool, tmp_path: Path) -> None:
    with pytest.raises(OperationalError) as e, as_tortoise_raises(OperationalError):
        failing(tmp_path)  # type: ignore[operator]
    assert (outage(e.value) is not None) is is_outage
    assert hook(e.value) is is_outage


def test_an_error_of_a_task_is_an_outage_only_if_it_is_a_databases(tmp_path: Path) -> None:
    assert not hook(FileNotFoundError())
    assert not hook(TimeoutError())
    assert hook(DBConnectionError("no connection"))
    try:
        raise FileNotFoundError  # what is being handled then
    except FileNotFoundError:
        with pytest.raises(OperationalError) as e, as_tortoise_raises(OperationalError):
            no_table(tmp_path)
    assert not hook(e.value)


async def test_a_connection_that_the_server_ends_is_an_outage_with_asyncpg() -> None:
    connection = await asyncpg.connect(postgres_url())
    with pytest.raises(asyncpg.PostgresError) as e:
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert outage(e.value) is e.value
    with pytest.raises(asyncpg.InterfaceError) as closed:
        await connection.execute("SELECT 1")
    assert outage(closed.value) is closed.value


async def test_a_connection_that_the_server_ends_is_an_outage_with_psycopg() -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url()) as connection:
        with pytest.raises(psycopg.OperationalError) as e:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert outage(e.value) is e.value
        with pytest.raises(psycopg.OperationalError) as closed:
            await connection.execute("SELECT 1")
        assert outage(closed.value) is closed.value


async def test_too_many_connections_are_an_outage() -> None:
    role = f"asynctasq_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
        try:
            with pytest.raises(asyncpg.TooManyConnectionsError) as e:
                await asyncpg.connect(postgres_url(), user=role)
        finally:
            connection.execute(f"DROP ROLE {role}")
    assert outage(e.value) is e.value


async def test_a_mistake_in_the_query_is_none() -> None:
    connection = await asyncpg.connect(postgres_url())
    with pytest.raises(asyncpg.PostgresError) as e:
        await connection.execute("SELECT * FROM nothing_of_this_name")
    await connection.close()
    assert outage(e.value) is None
    with pytest.raises(psycopg.Error) as other, psycopg.connect(postgres_url()) as sync_connection:
        sync_connection.execute("SELECT 1 / 0")
    assert outage(other.value) is None


def test_codes_of_mysql_are_told_apart() -> None:
    with pytest.raises(DBConnectionError) as e, as_tortoise_raises(DBConnectionError):
        pymysql.connect(host="127.0.0.1", port=1, user="nobody")
    assert isinstance(outage(e.value), pymysql.OperationalError)
    mysql_url()
    with (
        connect_mysql() as connection,
        connection.cursor() as cursor,
        pytest.raises(OperationalError) as none,
        as_tortoise_raises(OperationalError),
    ):
        cursor.execute("SELECT * FROM nothing.nothing")
    assert outage(none.value) is None


def test_timeouts_are_outages_and_cancellation_is_none() -> None:
    assert outage(TimeoutError()) is not None
    assert outage(ValueError()) is None
    assert outage(asyncio.CancelledError()) is None
