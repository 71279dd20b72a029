"""Where the servers that tests share are, each looked for once in a process.

A test asks for the URL of a server when it runs, and skips where there is none. Where no Redis or
no PostgreSQL listens, one is started for the run.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import psycopg
import pymysql
import redis
from psycopg.sql import SQL, Identifier
from redis.backoff import NoBackoff
from redis.retry import Retry

from .missing import missing
from .postgres_servers import PostgresProcess, find_postgres
from .redis_servers import RedisProcess, find_server

_REDIS_URL = os.environ.get("ASYNCTASQ_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
_POSTGRES_URL = os.environ.get(
    "ASYNCTASQ_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test"
)
_MYSQL_URL = os.environ.get("ASYNCTASQ_TEST_MYSQL_URL", "mysql://root@127.0.0.1:3306/test")

_started: list[RedisProcess | PostgresProcess] = []


@dataclass(frozen=True)
class _Server:
    """What was found.

    Attributes:
        problem: Why there is none.
    """

    url: str = ""
    problem: str = ""


def _url(found: _Server) -> str:
    return found.url or missing(" ".join(found.problem.split()))


def redis_url() -> str:
    """The URL of a Redis server."""
    return _url(_find_redis())


@functools.cache
def _find_redis() -> _Server:
    once: dict[str, Any] = {"socket_connect_timeout": 3, "retry": Retry(NoBackoff(), 0)}
    try:
        with redis.Redis.from_url(_REDIS_URL, **once) as client:
            client.ping()
    except (redis.ConnectionError, redis.TimeoutError) as e:
        if find_server("redis") is None:
            return _Server(problem=f"no Redis at {_REDIS_URL}, and none to start: {e}")
        return _start(RedisProcess(_folder("redis")))
    return _Server(_REDIS_URL)


def postgres_url() -> str:
    """The URL of a database of a PostgreSQL server, for one who may create databases."""
    return _url(_find_postgres())


@functools.cache
def _find_postgres() -> _Server:
    try:
        psycopg.connect(_POSTGRES_URL, connect_timeout=3).close()
    except psycopg.OperationalError as e:
        programs = find_postgres()
        if programs is None:
            return _Server(problem=f"no PostgreSQL at {_POSTGRES_URL}, and none to start: {e}")
        return _start(PostgresProcess(programs, _folder("postgres")))
    return _Server(_POSTGRES_URL)


@contextmanager
def postgres_database(prefix: str) -> Iterator[str]:
    """The URL of a database on the PostgreSQL server, which is removed in the end."""
    server, name = postgres_url(), f"{prefix}_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        # Nothing is to survive the machine.
        off = SQL("ALTER DATABASE {} SET synchronous_commit = off")
        connection.execute(off.format(Identifier(name)))
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def mysql_url() -> str:
    """The URL of a database of a MariaDB or MySQL server, for one who may create databases."""
    return _url(_find_mysql())


@functools.cache
def _find_mysql() -> _Server:
    try:
        connect_mysql().close()
    except pymysql.OperationalError as e:  # not `pymysql.err`: Django loads another
        return _Server(problem=f"no MariaDB at {_MYSQL_URL}: {e}")
    return _Server(_MYSQL_URL)


@contextmanager
def mysql_database(prefix: str) -> Iterator[str]:
    """The URL of a database on the MariaDB server, which is removed in the end."""
    server, name = mysql_url(), f"{prefix}_{uuid4().hex[:12]}"
    with connect_mysql() as connection:
        connection.cursor().execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        with connect_mysql() as connection:
            connection.cursor().execute(f"DROP DATABASE {name}")


def connect_mysql(**options: Any) -> Any:
    """A connection to the MariaDB server."""
    parts = urlsplit(_MYSQL_URL)
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        connect_timeout=3,
        **options,
    )


def _folder(kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"asynctasq-{kind}-"))


def _start(server: RedisProcess | PostgresProcess) -> _Server:
    _started.append(server)
    try:
        server.start()
    except (OSError, RuntimeError, subprocess.SubprocessError) as e:
        return _Server(problem=f"{type(server).__name__} does not start here: {e}")
    return _Server(server.url)


def end_started() -> None:
    """End the servers that were started for this run."""
    for server in _started:
        server.kill()
        shutil.rmtree(server.folder)
    _started.clear()
