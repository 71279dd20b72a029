"""The specification: every line of its text that has to be accounted for, and its examples.

Nothing is chosen by hand: whatever is no heading, no rule and no table of contents is a row.
"""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parent / "orm-integrations.md").read_text()
#: The row of a Python block, which stands in the section of the title above it.
EXAMPLE = "the example"

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"\*\*[^*]+\*\*( \(.*\))?:?")
_ISSUE = re.compile(r"\| (.+?) +\| (.+?) +\| (.+?) +\|")
_NO_ROW = re.compile(r"|---|#+ .*|\| Issue .*|\| -.*|\s*- \[[^]]*\]\(#.*")
_MARK = re.compile(r"^(- |\d+\. )?([✅❌] )?")


def examples() -> list[str]:
    """Its Python blocks, in order."""
    return _PYTHON.findall(TEXT)


def sections() -> dict[str, list[str]]:
    """The rows of each section: a heading, or a heading and a title in bold letters below it."""
    found: dict[str, list[str]] = {}
    chapter = section = ""
    text = _COMMANDS.sub(lambda block: _commands(block[1]), _PYTHON.sub(EXAMPLE, TEXT))
    for line in text.splitlines():
        if line.startswith("#") and line != "## Table of Contents":
            chapter = section = line.lstrip("# ")
        elif _TITLE.fullmatch(line):
            section = f"{chapter}: {line.replace('**', '').rstrip(':')}"
        elif not _NO_ROW.fullmatch(line):
            found.setdefault(section, []).append(_row(line))
    return found


def _commands(block: str) -> str:
    return "\n".join(f"`{line}`" for line in block.splitlines() if line and line[0] != "#")


def _row(line: str) -> str:
    if issue := _ISSUE.fullmatch(line):
        return "{} ({}): {}".format(*issue.groups())
    return _MARK.sub("", line)
