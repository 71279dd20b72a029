"""A database of each kind for each test that wants one, and Tortoise initialised on it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from .. import servers

sys.path.insert(0, str(Path(__file__).parent / "application"))

MODULES: dict[str, Any] = {"models": ["tortoise_shop.models"]}
KINDS = ["sqlite", "asyncpg", "psycopg", "mysql"]


def with_scheme(url: str, scheme: str, database: str) -> str:
    """The URL of another database on the same server, as Tortoise spells it."""
    return urlunsplit((scheme, urlsplit(url).netloc, f"/{database}", "", ""))


def postgres(statement: Any, database: str = "postgres") -> None:
    """Run a statement on the server of the tests."""
    import psycopg

    url = with_scheme(servers.postgres_url(), "postgresql", database)
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
        connection.execute(statement)


def mysql(statement: str) -> None:
    """Run a statement on the server of the tests."""
    with servers.connect_mysql(autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


def make_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database, which is removed in the end."""
    name = f"asynctasq_tt_{uuid4().hex[:12]}"
    if kind == "sqlite":
        yield f"sqlite://{folder}/{name}.db"
        return
    execute = mysql if kind == "mysql" else postgres
    url = servers.mysql_url() if kind == "mysql" else servers.postgres_url()
    execute(f"CREATE DATABASE {name}")
    if kind != "mysql":
        execute(f"ALTER DATABASE {name} SET synchronous_commit = off")  # nothing is to survive
    try:
        yield with_scheme(url, kind, name)
    finally:
        execute(f"DROP DATABASE {name}{'' if kind == 'mysql' else ' WITH (FORCE)'}")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind in turn."""
    yield from make_database(request.param, tmp_path)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An empty SQLite database."""
    return f"sqlite://{tmp_path}/db.sqlite3"


@pytest.fixture
def postgres_url(tmp_path: Path) -> Iterator[str]:
    """An empty PostgreSQL database, through asyncpg."""
    yield from make_database("asyncpg", tmp_path)


Initialise = Callable[..., Awaitable[None]]


@pytest.fixture
async def initialise() -> AsyncIterator[Initialise]:
    """`Tortoise.init` in the test's context, and all tables; closed in the end."""
    from tortoise import Tortoise
    from tortoise.backends.base.executor import EXECUTOR_CACHE

    opened: list[Any] = []
    EXECUTOR_CACHE.clear()  # keyed by connection name and table, whatever the dialect

    async def init(*, schemas: bool = True, **arguments: Any) -> None:
        if "config" not in arguments:
            arguments.setdefault("modules", MODULES)
        opened.append(await Tortoise.init(**arguments) or Tortoise)
        if schemas:
            await Tortoise.generate_schemas()

    yield init
    for each in opened:
        if each is Tortoise:  # 0.x, where the test may have forgotten it already
            await forget_initialisation()
        else:
            await each.close_connections()


@pytest.fixture
async def db(url: str, initialise: Initialise) -> str:
    """Tortoise initialised on an empty database of each kind in turn."""
    await initialise(db_url=url)
    return url


@pytest.fixture
async def sqlite(sqlite_url: str, initialise: Initialise) -> str:
    """The same on SQLite alone."""
    await initialise(db_url=sqlite_url)
    return sqlite_url


@pytest.fixture(autouse=True)
async def _clean_process() -> AsyncIterator[None]:
    """Each test starts without configuration, and without what another one opened."""
    from asynctasq_tortoise import lifecycle

    yield
    await lifecycle.stop_worker()
    lifecycle.configure(None)
    await forget_initialisation()


async def forget_initialisation() -> None:
    """Let this process look to the next worker as if it had never initialised Tortoise."""
    from tortoise import Tortoise, connections

    if hasattr(Tortoise, "_get_context"):
        await Tortoise.close_connections()
        return
    orm: Any = Tortoise  # 0.x has one state for the whole process
    handler: Any = connections
    if handler._db_config is not None:
        await orm.close_connections()
    await orm._reset_apps()
    orm._inited = False
    handler._db_config = None
    handler._clear_storage()


class Statements:
    """Counts the statements that reach the clients of Tortoise."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def emit(self, text: str) -> None:
        """Take in one log record."""
        self.seen.append(text)

    def selects(self) -> int:
        """How many queries read rows."""
        return sum(text.lstrip().upper().startswith("SELECT") for text in self.seen)


@pytest.fixture
def statements() -> Iterator[Statements]:
    """What Tortoise logs while the test runs."""
    import logging

    found = Statements()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.emit(record.getMessage())

    logger = logging.getLogger("tortoise.db_client")
    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(listener)
    logger.setLevel(level)
