"""The lines of the page of the command line that turn on completion, in the shells themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

#: How a shell is asked what it would offer, once it has completion: `TURN_ON` stands for the line
#: of the page, `TYPED` for what was typed.
ASKED = {
    "bash": """TURN_ON
        COMP_WORDS=(TYPED) COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        _asynctasq_completion asynctasq && printf '%s\\n' "${COMPREPLY[@]}" """,
    # What zsh shows it gives to its own two functions, which work in an interactive shell only.
    "zsh": """compdef() { : }
        _describe() { print -l -- ${(P)3} }
        compadd() { print -l -- ${(P)${@[-1]}} }
        TURN_ON
        words=(TYPED) CURRENT=${#words}
        _asynctasq_completion""",
    "fish": """TURN_ON
        complete -C "TYPED" """,
}


def offered(shell: str, words: str) -> set[str]:
    """What the shell offers for the last of these words, without descriptions."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing")
    section = PAGE.read_text().partition("## Shell completion\n")[2]
    line = re.search(rf"^.*{shell}_source.*$", section, re.MULTILINE)
    assert line is not None
    script = ASKED[shell].replace("TURN_ON", line[0]).replace("TYPED", words)
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    return {re.split(r"[:\t]", line)[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("shell", ASKED)
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    assert offered(shell, "asynctasq dead re") == {"retry"}
    assert offered(shell, "asynctasq dead retry --a") == {"--all", "--arguments"}


def test_commands_of_plugins_are_completed_too() -> None:
    assert offered("bash", "asynctasq da") == {"dashboard"}
