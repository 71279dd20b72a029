"""The shop's tables on PostgreSQL, MariaDB and SQLite, reached by each driver."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sashop import Base, DataBase
from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from ..servers import mysql_url, postgres_url

NAME = f"asynctasq_sa_{os.getpid()}"
ASYNC_DRIVERS = {
    "asyncpg": ("postgres", "postgresql+asyncpg"),
    "psycopg": ("postgres", "postgresql+psycopg"),
    "aiomysql": ("mysql", "mysql+aiomysql"),
    "aiosqlite": ("sqlite", "sqlite+aiosqlite"),
}
SYNC_DRIVERS = {
    "psycopg-sync": ("postgres", "postgresql+psycopg"),
    "pymysql": ("mysql", "mysql+pymysql"),
    "sqlite3": ("sqlite", "sqlite"),
}


@dataclass(frozen=True)
class Store:
    """One database reached by one driver, its session factory set on the models.

    Attributes:
        url: For more engines like `engine`.
        factory: What `_asynctasq_session_factory` is.
        setup: Sessions that arrange and look, outside of what is tested.
    """

    driver: str
    server: str
    url: URL
    engine: AsyncEngine | Engine
    factory: Any
    setup: sessionmaker[Session]

    def add(self, *rows: object) -> None:
        """Insert rows; they are detached and readable afterwards."""
        with self.setup() as session:
            session.add_all(rows)
            session.commit()

    @property
    def sync_engine(self) -> Engine:
        """The engine that events are listened to on."""
        return self.engine.sync_engine if isinstance(self.engine, AsyncEngine) else self.engine

    @contextmanager
    def counted(self) -> Iterator[list[str]]:
        """The statements that the engine executes meanwhile."""
        statements: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement)

        event.listen(self.sync_engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            event.remove(self.sync_engine, "before_cursor_execute", note)


def create_database(server: str, folders: pytest.TempPathFactory) -> URL:
    """A new database with the tables; skips without its server, fails on CI."""
    if server == "sqlite":
        url = URL.create("sqlite", database=str(folders.mktemp("sqlite") / "shop.db"))
    else:
        administer(server, f"CREATE DATABASE {NAME}")
        if server == "postgres":  # whose data is to survive no crash
            administer(server, f"ALTER DATABASE {NAME} SET synchronous_commit = off")
        url = _server_url(server).set(database=NAME)
    engine = create_engine(url, poolclass=NullPool)
    for base in (Base, DataBase):
        base.metadata.create_all(engine)
    engine.dispose()
    return url


def _server_url(server: str) -> URL:
    if server == "postgres":
        return make_url(postgres_url()).set(drivername="postgresql+psycopg")
    return make_url(mysql_url()).set(drivername="mysql+pymysql")


def administer(server: str, statement: str) -> None:
    """Run one statement outside of any transaction."""
    engine = create_engine(_server_url(server), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@contextmanager
def open_store(
    driver: str, database: Callable[[str], URL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store with empty tables, whose factory the models have."""
    server, name = {**ASYNC_DRIVERS, **SYNC_DRIVERS}[driver]
    plain = database(server)
    url = plain.set(drivername=name)
    factory: Any
    engine: Any
    if driver in ASYNC_DRIVERS:
        engine = create_async_engine(url, poolclass=NullPool)
        factory = async_sessionmaker(engine, expire_on_commit=False)
    else:
        engine = create_engine(url, poolclass=NullPool)
        factory = sessionmaker(engine, expire_on_commit=False)
    setup_engine = create_engine(plain, poolclass=NullPool)
    for base in (Base, DataBase):
        monkeypatch.setattr(base, "_asynctasq_session_factory", factory, raising=False)
        with setup_engine.begin() as connection:
            for table in reversed(base.metadata.sorted_tables):
                connection.execute(table.delete())
    setup = sessionmaker(setup_engine, expire_on_commit=False)
    yield Store(driver, server, url, engine, factory, setup)
