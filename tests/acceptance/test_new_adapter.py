"""A skeleton of an adapter, as it is written and tested before anything in it is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asynctasq", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def install(folder: Path, name: str) -> None:
    """As `pip install -e` would, without a network."""
    source = folder / f"asynctasq-{name}"
    info = folder / "site" / f"asynctasq_{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: asynctasq-{name}\nVersion: 0.1.0\n"
    )
    (info / "entry_points.txt").write_text(f"[asynctasq]\n{name} = asynctasq_{name}.adapter\n")
    (folder / "site" / f"asynctasq_{name}").symlink_to(source / "src" / f"asynctasq_{name}")


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """The folder in which the adapter `fresh` was written and installed."""
    written = run(tmp_path, "new-adapter", "fresh")
    assert written.returncode == 0, written.stderr
    assert "pip install -e" in written.stdout
    install(tmp_path, "fresh")
    return tmp_path


@pytest.mark.timeout(300)
def test_a_new_adapter_passes_the_suite(skeleton: Path) -> None:
    done = run(skeleton, "test-adapter", "fresh", "-q")
    assert done.returncode == 0, done.stdout
    assert "transactions           -\n" in done.stdout
    assert "asynctasq-fresh" in (skeleton / "asynctasq-fresh" / "pyproject.toml").read_text()


def test_a_hook_whose_flag_is_off_is_named(skeleton: Path) -> None:
    adapter = skeleton / "asynctasq-fresh" / "src" / "asynctasq_fresh" / "adapter.py"
    with adapter.open("a") as file:
        file.write("\n\n@hookimpl\ndef thread_scope(): ...\n")
    done = run(skeleton, "test-adapter", "fresh", "-q", "-k", "hooks")
    assert done.returncode == 0, done.stdout
    assert "the hook thread_scope, which is not tested: knows_connection is off" in done.stdout


@pytest.mark.timeout(300)
def test_the_suite_of_a_new_adapter_finds_mistakes_in_what_it_tests(skeleton: Path) -> None:
    done = run(skeleton, "test-adapter", "fresh", "--self-check")
    assert done.returncode == 0, done.stdout
    words = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert set(words) == {"found", "not tested"}
    assert "found        fetch_many blocks the event loop" in done.stdout
    assert "not tested   it imports its ORM at the top" in done.stdout  # it has none
    assert "found        thousands of keys in one query" in done.stdout


@pytest.mark.parametrize("name", ["Fresh", "1st", "my-orm", "a.b", "../x", ""])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, "new-adapter", name)
    assert done.returncode == 2
    assert "is not a name" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "asynctasq-fresh").mkdir()
    done = run(tmp_path, "new-adapter", "fresh")
    assert done.returncode == 1
    assert "asynctasq-fresh already exists" in done.stderr
