"""Where the servers that tests share are, each looked for once in a process.

A test asks for the URL of a server when it runs, and skips where there is none. Where no Redis
listens, one is started for the run.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .missing import missing
from .redis_servers import RedisProcess, find_server

POSTGRES_URL = os.environ.get(
    "ASYNCTASQ_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test"
)
MYSQL_URL = os.environ.get("ASYNCTASQ_TEST_MYSQL_URL", "mysql://root@127.0.0.1:3306/test")
_REDIS_URL = os.environ.get("ASYNCTASQ_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")

_started: list[RedisProcess] = []


def redis_url() -> str:
    """The URL of a Redis server."""
    url = _find_redis()
    return url or missing(f"no Redis at {_REDIS_URL}, and no server to start")


@functools.cache
def _find_redis() -> str:
    once: dict[str, Any] = {"socket_connect_timeout": 3, "retry": Retry(NoBackoff(), 0)}
    try:
        with redis.Redis.from_url(_REDIS_URL, **once) as client:
            client.ping()
        return _REDIS_URL
    except (redis.ConnectionError, redis.TimeoutError):
        return _start_redis()


def _start_redis() -> str:
    if find_server("redis") is None:
        return ""
    server = RedisProcess(Path(tempfile.mkdtemp(prefix="asynctasq-redis-")))
    _started.append(server)
    server.start()
    return server.url


def end_started() -> None:
    """End the servers that were started for this run."""
    for server in _started:
        server.kill()
        shutil.rmtree(server.folder)
    _started.clear()
    _find_redis.cache_clear()


def postgres_url() -> str:
    """The URL of a database of a PostgreSQL server, for one who may create databases."""
    if problem := _problem(_connect_postgres):
        missing(f"no PostgreSQL at {POSTGRES_URL}: {problem}")
    return POSTGRES_URL


def _connect_postgres() -> None:
    psycopg.connect(POSTGRES_URL, connect_timeout=3).close()


def mysql_url() -> str:
    """The URL of a database of a MariaDB or MySQL server, for one who may create databases."""
    if problem := _problem(_connect_mysql):
        missing(f"no MariaDB at {MYSQL_URL}: {problem}")
    return MYSQL_URL


def _connect_mysql() -> None:
    connect_mysql().close()


def connect_mysql(**options: Any) -> Any:
    """A connection to the MariaDB server."""
    parts = urlsplit(MYSQL_URL)
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        connect_timeout=3,
        **options,
    )


@functools.cache
def _problem(connect: Callable[[], None]) -> str:
    """Why a server cannot be used, in one line; empty when it can."""
    try:
        connect()
    except (psycopg.OperationalError, pymysql.err.OperationalError) as e:
        return " ".join(str(e).split())
    return ""
