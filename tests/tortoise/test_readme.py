"""The example of README, as printed."""

from __future__ import annotations

from pathlib import Path

from ..readmes import Readme


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    Readme("asynctasq-tortoise").assert_the_example_runs(tmp_path)
