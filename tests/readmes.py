"""The READMEs of packages, whose examples run as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PACKAGES = Path(__file__).parents[1] / "packages"


class Readme:
    """The README of a package."""

    def __init__(self, package: str) -> None:
        self.text = (PACKAGES / package / "README.md").read_text()

    def blocks(self, language: str) -> list[str]:
        """Its code in one language, in order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def assert_the_example_runs(self, folder: Path) -> None:
        """The only program, started by the second block of commands, prints the first text."""
        (program,) = self.blocks("python")
        (folder / "shop.py").write_text(program)
        assert run(self.blocks("sh")[1].splitlines(), folder) == self.blocks("text")[0]


def run(commands: Iterable[str], folder: Path) -> str:
    """Their output; `python` and what is installed beside it are those of the tests."""
    ours = ("ASYNCTASQ_", "DJ")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
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
