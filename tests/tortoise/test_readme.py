"""The example of README, as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "packages" / "asynctasq-tortoise" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    (program,) = blocks("python")
    (tmp_path / "shop.py").write_text(program)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    output = ""
    for command in blocks("sh")[1].splitlines():
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        output += done.stdout
    assert output == blocks("text")[0]
