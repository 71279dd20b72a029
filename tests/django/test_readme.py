"""The example of README, as printed."""

from __future__ import annotations

import re
from pathlib import Path

from ..readmes import Readme, run

README = Readme("asynctasq-django")
_FILE = re.compile(r"(?:In|At the end of) `([\w/]+\.py)`.*?```python\n(.*?)```", re.DOTALL)


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    files = _FILE.findall(README.text)
    assert len(files) == len(README.blocks("python")) == 4
    start, commands = (block.splitlines() for block in README.blocks("sh"))
    run(start[1:], tmp_path)
    for name, text in files:
        with (tmp_path / name).open("a" if name.endswith("settings.py") else "w") as file:
            file.write("\n" + text)
    assert run(commands, tmp_path).endswith(README.blocks("text")[0])
