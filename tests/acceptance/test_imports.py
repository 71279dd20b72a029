"""What importing costs: no ORM comes along, and a worker's process stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import clean_environment, finished

ORMS = ("sqlalchemy", "django", "tortoise")


def loaded_by(code: str) -> set[str]:
    """Top-level packages and our own modules that are loaded after running the code."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return set(finished(done).split())


@pytest.mark.parametrize(
    "code",
    [
        "import asynctasq",
        "import asynctasq; asynctasq.init()",
        "import asynctasq; asynctasq.task(lambda: None)().options({})",
        "import asynctasq.cli.worker, asynctasq.supervision.run, asynctasq.supervision.supervisor",
    ],
)
def test_no_orm_is_imported_although_all_adapters_are_installed(code: str) -> None:
    modules = loaded_by(code)
    assert not modules & set(ORMS)


def test_all_adapters_are_loaded_without_their_orms() -> None:
    modules = loaded_by(
        "from asynctasq.adapters.plugins import installed; assert len(installed().loaded) >= 3"
    )
    assert {"asynctasq_sqlalchemy", "asynctasq_django", "asynctasq_tortoise"} <= modules
    assert not modules & set(ORMS)


def test_the_worker_loads_nothing_that_prints_tables_or_tests() -> None:
    modules = loaded_by("import asynctasq.cli.worker, asynctasq.supervision.run")
    assert not modules & {"rich", "pytest", "watchfiles", "multiprocessing.pool"}


def test_a_plain_import_loads_no_broker_client() -> None:
    assert not loaded_by("import asynctasq") & {"redis", "sqlite3", "uvloop", "click"}
