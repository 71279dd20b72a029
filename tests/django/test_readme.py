"""The example of README, as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "packages" / "asynctasq-django" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    files = re.findall(r"(?:In|At the end of) `([\w/]+\.py)`.*?```python\n(.*?)```", *_text())
    assert len(files) == len(blocks("python")) == 4
    start, commands = (block.splitlines() for block in blocks("sh"))
    _run(start[1:], tmp_path)
    for name, text in files:
        with (tmp_path / name).open("a" if name.endswith("settings.py") else "w") as file:
            file.write("\n" + text)
    assert _run(commands, tmp_path).endswith(blocks("text")[0])


def _text() -> tuple[str, re.RegexFlag]:
    return README.read_text(), re.DOTALL


def _run(commands: list[str], folder: Path) -> str:
    """Their output; `python` and what is installed beside it are those of the tests."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DJ")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    output = ""
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        output += done.stdout
    return output
