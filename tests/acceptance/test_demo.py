"""The demo: it ends by itself in seconds and says so when something did not happen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT, clean_environment, finished


def run_demo(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo" / "demo.py")],
        env={**clean_environment(), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_demo_shows_what_it_claims(tmp_path: Path) -> None:
    printed = finished(run_demo(TMPDIR=str(tmp_path)))
    assert printed.count("✓") == 11
    assert "✗" not in printed
    assert os.listdir(tmp_path) == []


def test_the_demo_fails_when_something_did_not_happen() -> None:
    # Without its adapter the worker cannot fetch a row.
    done = run_demo(ASYNCTASQ_PLUGINS="")
    assert done.returncode != 0
