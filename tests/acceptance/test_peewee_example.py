"""The example of a fourth adapter, installed as users install one, and on the servers."""

from __future__ import annotations

import gc
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import peewee
import psycopg
import pytest
from asynctasq.testing.adapters.fetching import FetchingTests
from asynctasq.testing.adapters.missing import MissingTests
from asynctasq_peewee import adapter, suite

from ..servers import mysql_url, postgres_url
from .conftest import ROOT, Environment, finished

EXAMPLE = ROOT / "examples" / "asynctasq-peewee"
GUIDE = (ROOT / "docs" / "writing-an-adapter.md").read_text()
Install = Callable[[Sequence[str]], Environment]

APPLICATION = """
from pathlib import Path
from typing import Annotated

import peewee
from asynctasq import task
from asynctasq_peewee import prefetch

db = peewee.SqliteDatabase("app.db")

class Base(peewee.Model):
    name = peewee.CharField()

    class Meta:
        database = db

class User(Base):
    pass

class Order(Base):
    user = peewee.ForeignKeyField(User, backref="orders")

@task
def greet(user: Annotated[User, prefetch(Order)]) -> None:
    orders = ", ".join(order.name for order in user.orders)
    Path("written").write_text(f"{user.name} ordered {orders}")

if __name__ == "__main__":
    db.create_tables([User, Order])
    with db.atomic():
        user = User.create(name="Ada")
        Order.create(name="tea", user=user)
        greet(user).dispatch_sync()
        User.update(name="Grace").execute()
"""


@pytest.fixture(scope="module")
def environment(install: Install) -> Environment:
    """A virtual environment with the example, its extra for testing, and nothing else."""
    return install([f"asynctasq-peewee[testing] @ {EXAMPLE.as_uri()}"])


def commands() -> list[list[str]]:
    """What the guide tells its readers to type, after the installation."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert lines[0] == ["pip", "install", "-e", ".[testing]"]
    return lines[1:]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_of_the_guide_work(
    environment: Environment, command: list[str], tmp_path: Path
) -> None:
    output = finished(environment.run(*command, cwd=tmp_path, timeout=280))
    if command[1] == "plugins":
        assert re.search(r"peewee .*asynctasq-peewee .*0\.1\.0 .*loaded", output)
    elif "--self-check" in command:
        lines = output.splitlines()
        assert [line for line in lines if not line.startswith("found ")] == [
            "not tested   a call waits for a transaction that has ended"  # it owns none
        ]
    else:
        passed = re.search(r"(\d+) passed", output)
        assert passed
        assert int(passed[1]) > (0 if "-k" in command else 85)
        assert "failed" not in output


def test_the_wheel_has_no_other_adapter_and_no_other_orm(environment: Environment) -> None:
    names = environment.distributions()
    assert {"asynctasq-peewee", "asynctasq-core", "peewee", "pytest", "pytest-asyncio"} <= names
    assert not {"sqlalchemy", "django", "tortoise-orm"} & names


def test_a_failing_suite_makes_the_command_fail(environment: Environment, tmp_path: Path) -> None:
    done = environment.run(
        "asynctasq", "test-adapter", "peewee", "-k", "no_such_test", cwd=tmp_path
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    done = environment.run("asynctasq", "test-adapter", "tortoise", cwd=tmp_path)
    assert done.returncode == 1
    assert "no adapter 'tortoise' is installed; there are: peewee" in done.stderr


def test_an_application_sends_its_rows_after_the_commit(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    finished(environment.run("python", "app.py", cwd=tmp_path))
    finished(environment.run("asynctasq", "worker", "app", "--burst", cwd=tmp_path))
    assert (tmp_path / "written").read_text() == "Grace ordered tea"


# --- on the servers ---------------------------------------------------------------------


def connected(url: str, name: str) -> Any:
    """A database of a server, closed yet."""
    parts = urlsplit(url)
    where: dict[str, Any] = {"host": parts.hostname, "user": unquote(parts.username or "")}
    if parts.password:
        where["password"] = unquote(parts.password)
    if parts.scheme == "mysql":
        return peewee.MySQLDatabase(name, port=parts.port or 3306, **where)
    return peewee.PostgresqlDatabase(name, port=parts.port or 5432, prefer_psycopg3=True, **where)


class OnServer(suite.TestPeewee):
    """The suite on a database of its own."""

    url: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls) -> Iterator[str]:
        """A new database of the server."""
        cls.url = cls.find_server()
        name = f"asynctasq_pw_{uuid4().hex[:12]}"
        server = connected(cls.url, urlsplit(cls.url).path.lstrip("/"))
        server.connect()
        cls.administrate(server, f"CREATE DATABASE {name}")
        if isinstance(server, peewee.PostgresqlDatabase):
            cls.administrate(server, f"ALTER DATABASE {name} SET synchronous_commit = off")
        yield name
        cls.administrate(server, f"DROP DATABASE {name}")
        server.close()

    @pytest.fixture
    def database(self, name: str) -> Iterator[None]:
        models = [suite.User, suite.Order, suite.Seat]
        suite.db.initialize(connected(self.url, name))
        with suite.db.connection_context():
            suite.db.create_tables(models)
        yield
        with suite.db.connection_context():
            suite.db.drop_tables(models)

    @classmethod
    def find_server(cls) -> str:
        """The URL of the server."""
        raise NotImplementedError

    @classmethod
    def administrate(cls, server: Any, statement: str) -> None:
        server.execute_sql(statement)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody listens on that port."""
        db = suite.db.obj
        name, port = db.database, db.connect_params["port"]
        db.init(name, **{**db.connect_params, "port": 1})
        yield
        db.init(name, **{**db.connect_params, "port": port})


class TestOnPostgres(OnServer):
    counts_connections = True

    @classmethod
    def find_server(cls) -> str:
        return postgres_url()

    @classmethod
    def administrate(cls, server: Any, statement: str) -> None:
        connection = server.connection()
        connection.rollback()
        connection.autocommit = True
        connection.execute(statement + " WITH (FORCE)" * statement.startswith("DROP"))

    def connections(self) -> int:
        """As the server counts them, once it has noticed which are closed."""
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        name, deadline = suite.db.obj.database, time.monotonic() + 10
        while True:
            (found,) = suite.db.execute_sql(count, (name,)).fetchone()
            known = [c for c in gc.get_objects() if type(c) is psycopg.Connection]
            is_even = found <= sum(not c.closed and c.info.dbname == name for c in known)
            if is_even or time.monotonic() > deadline:
                return int(found)
            time.sleep(0.01)


class TestOnMariaDB(OnServer):
    parts = (FetchingTests, MissingTests)

    @classmethod
    def find_server(cls) -> str:
        return mysql_url()


def test_an_error_of_the_database_is_an_outage_unless_something_is_missing_there(
    tmp_path: Path,
) -> None:
    away: Any = peewee.SqliteDatabase("/nowhere/db")
    here: Any = peewee.SqliteDatabase(f"{tmp_path}/db")
    for db, statement, is_outage in [
        (away, "SELECT 1", True),
        (here, "SELECT * FROM missing", False),
    ]:
        with pytest.raises(peewee.OperationalError) as raised:
            db.execute_sql(statement)
        assert adapter.is_outage(raised.value) == is_outage
        db.close()
    assert not adapter.is_outage(ValueError("no database's"))
