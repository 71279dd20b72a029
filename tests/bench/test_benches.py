"""Each benchmark runs to its end and prints its table, with sizes that say nothing of speed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import asynctasq
import asynctasq.testing
import asynctasq_prometheus
import asynctasq_sqlalchemy
import psycopg
import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]["bench"]["scripts"]
POSTGRES = os.environ.get(
    "ASYNCTASQ_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test"
)

#: Of those peers that this environment holds.
_PEERS = "--here --repeat 1"
SIZES = {
    "peers": f"{_PEERS} --n 20 asynctasq bare huey",
    "drain": f"{_PEERS} --n 200 bare",
    "events": f"{_PEERS} --n 200 asynctasq_listening",
    "models": "--repeat 1 --n 20 sqlalchemy",
    "hundred": "--repeat 1 --n 5 django tortoise",
    "commits": "--repeat 1 --n 10",
    "once": "--repeat 1 --n 10",
    "blocking": f"{_PEERS} --n 20",
    "large": f"{_PEERS} --n 3",
    "results": "--repeat 1 --n 5",
    "computing": f"{_PEERS} --n 20 --concurrency 10",
    "children": f"{_PEERS} --n 50",
    "scaling": f"{_PEERS} --n 3000 --processes 1,2 asynctasq",
    "processes": "--repeat 1 --n 100 --steps 10",
    "growth": "--repeat 1 --n 50 --largest 500",
    "postgres": f"{_PEERS} --n 20 --waiting 100 --held-seconds 0.1 asynctasq_postgres",
    "policies": "--repeat 1 --n 200 --largest 400",
    "flow": "--repeat 1 --chains 2 --schedules 3 --seconds 0.1 --calls 30",
    "payload": "",
    "soak": "--minutes 0.02 --broker sqlite --seed 1",
}
ON_POSTGRES = {"models", "hundred", "commits", "once", "postgres"}
WITHOUT_REDIS = {"payload", "soak", "postgres"}


def _require(name: str) -> None:
    """Skip without the servers that a benchmark needs; fail on a CI machine."""
    if name not in WITHOUT_REDIS and shutil.which("redis-server") is None:
        _missing("redis-server")
    if name in ON_POSTGRES:
        try:
            psycopg.connect(POSTGRES, connect_timeout=5).close()
        except psycopg.OperationalError as e:
            _missing(f"PostgreSQL: {e}")


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_prints_its_table(name: str) -> None:
    _require(name)
    python, *arguments, args = SCRIPTS[name].split()
    assert (python, args) == ("python", "{args}")
    done = subprocess.run(
        [sys.executable, *arguments, *SIZES[name].split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = re.findall(r"^\| [`\w].+ \|$", done.stdout, re.MULTILINE)
    assert rows, done.stdout
    assert all(re.search(r"\| \**[\d,.]+", row) for row in rows), done.stdout


def test_what_a_failing_process_wrote_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.models", "no_such_orm"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0
    assert "ModuleNotFoundError: No module named 'bench.orms.no_such_orm'" in done.stderr


def _pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "bench/README.md", *(ROOT / "docs").glob("**/*.md")]


def test_documented_benchmarks_are_scripts_and_scripts_are_documented() -> None:
    named = {name for page in _pages() for name in re.findall(r"bench:(\w+)", page.read_text())}
    assert named == set(SCRIPTS) == set(SIZES)


def _modules() -> list[Path]:
    return sorted((ROOT / "bench").glob("**/*.py"))


def _used_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Modules of ours with the names that are taken from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [a.name for a in node.names if a.name.partition(".")[0].startswith("asynctasq")]
            yield from ((name, "") for name in ours)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asynctasq"):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "asynctasq":
            yield "asynctasq", node.attr


@pytest.mark.parametrize("module", _modules(), ids=lambda path: path.stem)
def test_benchmarks_use_public_names_only(module: Path) -> None:
    public = {
        "asynctasq": {*asynctasq.__all__, ""},
        "asynctasq_sqlalchemy": {*asynctasq_sqlalchemy.__all__},
        "asynctasq_prometheus": {*asynctasq_prometheus.__all__, ""},
        "asynctasq.testing": {*asynctasq.testing.__all__, ""},
    }
    tree = ast.parse(module.read_text())
    if "from bench.peers import INSIDE, asynctasq\n" in module.read_text():  # the peer's module
        public["asynctasq"] |= {"PEER", "TASKS", "Producer", "__name__"}
    strange = [
        (where, what) for where, what in _used_names(tree) if what not in public.get(where, ())
    ]
    assert not strange
