"""A Django project with four databases: two of PostgreSQL, one each of MariaDB and SQLite.

It is configured without `DJANGO_SETTINGS_MODULE`, so that programs which other tests start do not
take it for theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asynctasq
import psycopg
import pytest

from ..servers import connect_mysql, mysql_url, postgres_url

PROJECT = Path(__file__).parent / "project"
NAME = f"asynctasq_dj_{os.getpid()}"
Run = Callable[..., "subprocess.CompletedProcess[str]"]
FOLDER = tempfile.TemporaryDirectory(prefix=NAME)


DATABASES: dict[str, dict[str, Any]] = {
    "default": {"ENGINE": "django.db.backends.postgresql", "NAME": NAME},
    "other": {"ENGINE": "django.db.backends.postgresql", "NAME": f"{NAME}_other"},
    "maria": {"ENGINE": "django.db.backends.mysql", "NAME": NAME},
    "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER.name}/lite.db"},
}


def _set_address(alias: str) -> None:
    """Set where the server of a database is, here and for processes that tests start."""
    from django.db import connections

    if alias == "lite":
        return
    parts = urlsplit(mysql_url() if alias == "maria" else postgres_url())
    address = {
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
    }
    DATABASES[alias].update(address)
    connections.settings[alias].update(address)
    os.environ["DJSHOP_DATABASES"] = json.dumps(DATABASES)


def pytest_configure(config: pytest.Config) -> None:
    """Before test modules import models."""
    import django
    from django.conf import settings

    os.environ["DJSHOP_DATABASES"] = json.dumps(DATABASES)
    sys.path.insert(0, str(PROJECT))
    import djsettings

    if not settings.configured:
        names = [name for name in vars(djsettings) if name.isupper()]
        settings.configure(**{name: getattr(djsettings, name) for name in names})
        django.setup()


def _administrate(alias: str, *statements: str) -> None:
    if alias == "maria":
        with connect_mysql() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    elif alias != "lite":
        with psycopg.connect(postgres_url(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


def _create(alias: str) -> None:
    from django.db import connections
    from djshop.models import MODELS

    name = DATABASES[alias]["NAME"]
    _administrate(alias, f"CREATE DATABASE {name}")
    if alias in ("default", "other"):
        _administrate(alias, f"ALTER DATABASE {name} SET synchronous_commit = off")
    with connections[alias].schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)


def _drop(alias: str) -> None:
    name = DATABASES[alias]["NAME"]
    if alias == "maria":
        _administrate(alias, f"DROP DATABASE {name}")
    else:
        _administrate(alias, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _databases() -> Iterator[Callable[[str], None]]:
    """Creates a database with its tables when it is first asked for."""
    from asgiref.sync import SyncToAsync
    from django.db import connections

    created: set[str] = set()

    def need(alias: str) -> None:
        if alias in created:
            return
        _set_address(alias)
        _create(alias)
        created.add(alias)

    yield need
    connections.close_all()
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()
    for alias in created:
        _drop(alias)
    FOLDER.cleanup()


@pytest.fixture
def need_database(_databases: Callable[[str], None]) -> Iterator[Callable[[str], str]]:
    """Makes sure of a database and empties it after the test."""
    used: list[str] = []

    def need(alias: str) -> str:
        _databases(alias)
        used.append(alias)
        return alias

    yield need
    from django.db import connections
    from djshop.models import MODELS, User

    for alias in used:
        for model in [User.friends.through, *reversed(MODELS)]:
            model._base_manager.using(alias).all()._raw_delete(alias)
        connections[alias].close()


@pytest.fixture
def db(need_database: Callable[[str], str]) -> str:
    """The default database, on PostgreSQL."""
    return need_database("default")


@pytest.fixture(params=["default", "maria", "lite"])
def alias(request: pytest.FixtureRequest, need_database: Callable[[str], str]) -> str:
    """A database of each kind in turn."""
    return need_database(request.param)


@pytest.fixture
def queue(tmp_path: Path) -> dict[str, Any]:
    """Options of a queue that this process shares with those it starts."""
    options = {"driver": "sqlite", "sqlite": {"path": str(tmp_path / "queue.db")}}
    asynctasq.init(options)
    return options


@pytest.fixture
def run(queue: dict[str, Any]) -> Run:
    """Runs a program in the project's folder, with its settings unless told otherwise."""

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        base = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
        given = {
            "DJANGO_SETTINGS_MODULE": "djsettings",
            "DJSHOP_ASYNCTASQ": json.dumps(queue),
            **environment,
        }
        return subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env=base | {k: v for k, v in given.items() if v},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
