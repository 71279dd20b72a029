"""Databases of the shop in `project/`, made for this run and dropped after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "project"))

from sqlalchemy import URL

from .stores import (
    ASYNC_DRIVERS,
    NAME,
    SYNC_DRIVERS,
    Store,
    administer,
    create_database,
    open_store,
)


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], URL]]:
    """Gives the URL of a database of its own on a server, with all tables; dropped at the end."""
    made: dict[str, URL] = {}

    def make(server: str) -> URL:
        if server not in made:
            made[server] = create_database(server, tmp_path_factory)
        return made[server]

    yield make
    for server in made.keys() - {"sqlite"}:
        administer(server, f"DROP DATABASE {NAME}" + " WITH (FORCE)" * (server == "postgres"))


@pytest.fixture(params=[*ASYNC_DRIVERS, *SYNC_DRIVERS])
def store(
    request: pytest.FixtureRequest,
    database_url: Callable[[str], URL],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """Each driver in turn."""
    with open_store(request.param, database_url, monkeypatch) as opened:
        yield opened


@pytest.fixture(params=list(ASYNC_DRIVERS))
def async_store(
    request: pytest.FixtureRequest,
    database_url: Callable[[str], URL],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """Each asynchronous driver in turn."""
    with open_store(request.param, database_url, monkeypatch) as opened:
        yield opened


@pytest.fixture
def lite(database_url: Callable[[str], URL], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """SQLite, asynchronously: for what no database makes different."""
    with open_store("aiosqlite", database_url, monkeypatch) as opened:
        yield opened


@pytest.fixture
def postgres(
    database_url: Callable[[str], URL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """PostgreSQL by asyncpg."""
    with open_store("asyncpg", database_url, monkeypatch) as opened:
        yield opened


@pytest.fixture
def maria(database_url: Callable[[str], URL], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """MariaDB, synchronously."""
    with open_store("pymysql", database_url, monkeypatch) as opened:
        yield opened
