"""What `pip install` brings, for each way of installing, and that it works."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .conftest import PACKAGES, Environment, finished

ORMS = {"sqlalchemy", "django", "tortoise-orm"}
ADAPTERS = {"asynctasq-sqlalchemy", "asynctasq-django", "asynctasq-tortoise"}
LISTENERS = {"asynctasq-prometheus", "asynctasq-opentelemetry", "asynctasq-dashboard"}

Install = Callable[[Sequence[str]], Environment]

PLAIN_TASK = """
from pathlib import Path
from asynctasq import task

@task
async def write(text: str) -> None:
    Path("written").write_text(text)

if __name__ == "__main__":
    write("by the worker").dispatch_sync()
"""

SQLALCHEMY_TASK = """
import asyncio
from pathlib import Path
from asynctasq import task
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

engine = create_async_engine("sqlite+aiosqlite:///app.db")
Session = async_sessionmaker(engine, expire_on_commit=False)
Base._asynctasq_session_factory = Session

@task
async def greet(user: User) -> None:
    Path("written").write_text(f"Hello {user.name}")

async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with Session() as session:
        user = User(name="Ada")
        session.add(user)
        await session.commit()
        await greet(user).dispatch()
        user.name = "Grace"
        await session.commit()
    await engine.dispose()

if __name__ == "__main__":
    asyncio.run(main())
"""


def written_by_a_worker(environment: Environment, folder: Path, program: str) -> str:
    """Dispatch and work as a user does, in two processes with the embedded broker."""
    (folder / "app.py").write_text(program)
    finished(environment.run("python", "app.py", cwd=folder))
    finished(environment.run("asynctasq", "worker", "app", "--burst", cwd=folder))
    return (folder / "written").read_text()


@pytest.fixture(scope="module")
def core_alone(install: Install) -> Environment:
    return install(["asynctasq-core"])


def test_core_brings_no_orm_and_no_adapter(core_alone: Environment) -> None:
    assert not core_alone.distributions() & (ORMS | ADAPTERS | LISTENERS | {"asynctasq"})


def test_core_alone_runs_a_plain_task(core_alone: Environment, tmp_path: Path) -> None:
    assert written_by_a_worker(core_alone, tmp_path, PLAIN_TASK) == "by the worker"


def test_core_alone_says_what_a_missing_adapter_is_called(
    core_alone: Environment, tmp_path: Path
) -> None:
    done = core_alone.run(
        "python", "-c", "from asynctasq import create_worker_session_factory", cwd=tmp_path
    )
    assert done.returncode != 0
    code = "import asynctasq; asynctasq.init(tortoise_config={})"
    assert "asynctasq-tortoise" in core_alone.run("python", "-c", code, cwd=tmp_path).stderr


def test_core_alone_says_what_the_suite_of_adapters_needs(
    core_alone: Environment, tmp_path: Path
) -> None:
    done = core_alone.run("asynctasq", "test-adapter", "sqlalchemy", cwd=tmp_path)
    assert done.returncode == 1
    assert "asynctasq-core[testing]" in done.stderr


def test_the_command_and_the_module_are_the_same(core_alone: Environment, tmp_path: Path) -> None:
    by_command = core_alone.run("asynctasq", "--help", cwd=tmp_path)
    by_module = core_alone.run("python", "-m", "asynctasq", "--help", cwd=tmp_path)
    assert finished(by_command) == finished(by_module)


def test_one_adapter_brings_core_and_its_orm(install: Install, tmp_path: Path) -> None:
    environment = install(["asynctasq-sqlalchemy", "aiosqlite"])
    names = environment.distributions()
    assert {"asynctasq-core", "asynctasq-sqlalchemy", "sqlalchemy", "greenlet"} <= names
    assert not names & {"asynctasq-django", "asynctasq-tortoise", "django", "tortoise-orm"}
    assert written_by_a_worker(environment, tmp_path, SQLALCHEMY_TASK) == "Hello Grace"


def test_an_extra_brings_its_adapter(install: Install, tmp_path: Path) -> None:
    environment = install(["asynctasq[sqlalchemy]", "aiosqlite"])
    names = environment.distributions()
    assert {"asynctasq", "asynctasq-core", "asynctasq-sqlalchemy"} <= names
    assert "asynctasq-django" not in names
    assert written_by_a_worker(environment, tmp_path, SQLALCHEMY_TASK) == "Hello Grace"


def test_all_brings_every_adapter_and_importing_loads_no_orm(
    install: Install, tmp_path: Path
) -> None:
    environment = install(["asynctasq[all]", "aiosqlite"])
    assert environment.distributions() >= ADAPTERS | LISTENERS | ORMS
    code = (
        "import sys, asynctasq; asynctasq.init(); task = asynctasq.task(lambda: None)\n"
        "print(*(m for m in ('sqlalchemy', 'django', 'tortoise') if m in sys.modules))"
    )
    assert finished(environment.run("python", "-c", code, cwd=tmp_path)).split() == []
    listed = json.loads(finished(environment.run("asynctasq", "plugins", "--json", cwd=tmp_path)))
    assert {plugin["state"] for plugin in listed} == {"loaded"}
    assert {plugin["distribution"] for plugin in listed} >= ADAPTERS | LISTENERS
    assert written_by_a_worker(environment, tmp_path, SQLALCHEMY_TASK) == "Hello Grace"


@pytest.mark.parametrize("name", PACKAGES)
def test_archives_hold_code_types_and_licence_and_nothing_else(
    wheels: dict[str, Path], name: str
) -> None:
    wheel = wheels[name]
    files = zipfile.ZipFile(wheel).namelist()
    module = name.replace("-", "_")
    package = "asynctasq" if name == "asynctasq-core" else module
    tops = {f.partition("/")[0] for f in files} - {f"{module}-0.1.0.dist-info"}
    if name == "asynctasq":
        assert tops == set()
    else:
        plugin = {"asynctasq_pytest"} if name == "asynctasq-core" else set()
        assert tops == {package} | plugin
        assert f"{package}/py.typed" in files
    assert any(f.endswith("licenses/LICENSE") for f in files)
    with tarfile.open(wheel.with_name(f"{module}-0.1.0.tar.gz")) as sdist:
        held = {n.partition("/")[2] for n in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"} <= held
    assert not any("tests" in n.split("/") for n in held)


def test_lua_scripts_and_the_testing_kit_travel_with_core(wheels: dict[str, Path]) -> None:
    files = zipfile.ZipFile(wheels["asynctasq-core"]).namelist()
    assert any(f.endswith(".lua") for f in files)
    assert "asynctasq/testing/__init__.py" in files


def test_the_dashboard_travels_with_the_metrics(wheels: dict[str, Path]) -> None:
    files = zipfile.ZipFile(wheels["asynctasq-prometheus"]).namelist()
    assert "asynctasq_prometheus/dashboard.json" in files


def test_the_web_page_travels_whole(wheels: dict[str, Path]) -> None:
    files = set(zipfile.ZipFile(wheels["asynctasq-dashboard"]).namelist())
    source = Path(__file__).parents[2] / "packages/asynctasq-dashboard/src"
    kept = {
        str(path.relative_to(source))
        for folder in ("templates", "static")
        for path in (source / "asynctasq_dashboard" / folder).iterdir()
    }
    assert kept
    assert kept <= files
