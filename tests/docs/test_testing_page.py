"""The page on tests of applications: its files run as they stand."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from ..servers import postgres_url
from .conftest import Page


@pytest.fixture(scope="module")
def folder(page: Callable[[str], Page], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files."""
    path = tmp_path_factory.mktemp("testing")
    for name, code in page("testing.md").files().items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    (path / "django" / "shop" / "__init__.py").touch()
    (path / "django" / "settings.py").write_text(_SETTINGS)
    return path


_SETTINGS = """
INSTALLED_APPS = ["asynctasq_django", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3",
                         "TEST": {"NAME": "test.sqlite3"}}}
ASYNCTASQ = {"driver": "redis", "redis": "redis://127.0.0.1:1/0"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
SECRET_KEY = "secret"
"""


@pytest.fixture
def run(folder: Path) -> Callable[..., str]:
    """Runs Python in one of the page's projects; there is no server at its broker's address."""

    def run(project: str, *arguments: str, **environment: str) -> str:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ASYNCTASQ_", "DJ"))}
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder / project,
            env={**inherited, "ASYNCTASQ_REDIS_URL": "redis://127.0.0.1:1/0", **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """An empty database of PostgreSQL, for asyncpg."""
    name = f"asynctasq_testing_{os.getpid()}"

    async def administrate(statement: str) -> None:
        connection = await asyncpg.connect(postgres_url())
        await connection.execute(statement)
        await connection.close()

    asyncio.run(administrate(f"CREATE DATABASE {name}"))
    base = postgres_url().rpartition("/")[0]
    yield f"{base.replace('postgresql:', 'postgresql+asyncpg:')}/{name}"
    asyncio.run(administrate(f"DROP DATABASE {name} WITH (FORCE)"))


_PYTEST = ("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist")
_LOOP_SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")


def test_pytest_with_asyncio_in_a_session_that_is_rolled_back(
    run: Callable[..., str], database_url: str
) -> None:
    arguments = ("-p", "no:django", "test_shop.py")
    assert "3 passed" in run("sqlalchemy", *_PYTEST, *arguments, DATABASE_URL=database_url)


def test_pytest_with_anyio(run: Callable[..., str], database_url: str) -> None:
    # Without pytest-asyncio nobody knows its options.
    without = ("-p", "no:django", "-p", "no:asyncio", "-c", os.devnull, "--rootdir", ".")
    arguments = (*without, "test_with_anyio.py")
    assert "1 passed" in run("sqlalchemy", *_PYTEST, *arguments, DATABASE_URL=database_url)


def test_django_runs_its_tests(run: Callable[..., str]) -> None:
    output = run("django", "django", "test", DJANGO_SETTINGS_MODULE="settings")
    assert "Ran 5 tests" in output


def test_pytest_django_runs_them_too(run: Callable[..., str]) -> None:
    files = ("shop/tests.py", "shop/test_with_pytest.py")
    output = run("django", *_PYTEST, *_LOOP_SCOPE, "--ds", "settings", *files, PYTHONPATH=".")
    assert "7 passed" in output


def test_tortoise(run: Callable[..., str]) -> None:
    arguments = (*_LOOP_SCOPE, "-o", "asyncio_mode=auto", "-p", "no:django")
    assert "1 passed" in run("tortoise", *_PYTEST, *arguments, "test_shop.py")


def test_unittest_without_pytest(run: Callable[..., str]) -> None:
    assert "Ran 2 tests" in run("plain", "unittest", "-v", "test_plain")
