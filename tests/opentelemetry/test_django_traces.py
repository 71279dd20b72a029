"""A request of an instrumented Django application, what it dispatches, and the worker's queries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PROGRAM = Path(__file__).parent / "programs" / "django_site.py"


class Span(NamedTuple):
    """A span, by the names of itself and of its parent."""

    trace: int
    parent: str | None
    name: str


def spans_of(folder: Path, way: str) -> list[Span]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder / "shop.db"), way],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Span(*span) for span in json.loads(done.stdout)]


def test_request_commit_dispatch_run_and_queries_are_one_trace(tmp_path: Path) -> None:
    spans = spans_of(tmp_path, "commit")
    group = "django.contrib.auth.models.Group"
    assert {(span.parent, span.name) for span in spans} == {
        (None, "GET order/"),
        ("GET order/", "BEGIN"),
        ("GET order/", "INSERT"),
        ("GET order/", "dispatch default"),
        ("dispatch default", f"fetch {group}"),
        (f"fetch {group}", "SELECT"),
        ("dispatch default", "run default"),
        ("run default", "UPDATE"),
    }
    assert len({span.trace for span in spans}) == 1


def test_what_a_rollback_drops_has_no_run(tmp_path: Path) -> None:
    names = {span.name for span in spans_of(tmp_path, "rollback")}
    assert "dispatch default" in names
    assert "run default" not in names
