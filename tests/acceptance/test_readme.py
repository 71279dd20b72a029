"""The README's example, run as printed, and the commands it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from asynctasq.cli import cli

from .conftest import ROOT, clean_environment, finished

README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return finished(
        subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**clean_environment(), "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


def test_the_complete_example_runs_as_printed(tmp_path: Path) -> None:
    example = section("A complete example")
    (program,) = blocks("python", example)
    (commands,) = blocks("sh", example)
    (expected,) = blocks("text", example)
    (tmp_path / "app.py").write_text(program)
    printed = "".join(run(command, tmp_path) for command in commands.splitlines())
    assert printed == expected


def test_the_commands_look_at_the_queue_that_the_application_names(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    init = 'from asynctasq import init\ninit(sqlite="shop.db")\n'
    (tmp_path / "app" / "tasks.py").write_text(init)
    (commands,) = blocks("sh", section("The worker"))
    _, *looking = commands.splitlines()
    for command in looking:
        run(command, tmp_path)
    assert (tmp_path / "shop.db").exists()
    assert not (tmp_path / ".asynctasq").exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_test_command_is_that_of_continuous_integration() -> None:
    commands = "\n".join(blocks("sh", section("See it")))
    ci = (ROOT / ".ci" / "run").read_text()
    for command in (".venv/bin/hatch run demo:run", ".venv/bin/hatch run test"):
        assert command in commands
        # What failed may be run once more after it, but nothing else stands in the command itself.
        assert re.search(rf"^step {re.escape(command)}( \|\| .*)?$", ci, re.MULTILINE)


def test_every_command_that_the_running_text_names_exists() -> None:
    known = cli.list_commands(click.Context(cli))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("packages/*/README.md")]
    named = {
        name for page in pages for name in re.findall(r"`asynctasq ([a-z-]+)", page.read_text())
    }
    assert {"worker", "show"} <= named
    assert named <= set(known)


def test_the_page_of_the_command_line_has_every_command_and_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert re.search(rf"^## (.* and )?{name}( and .*)?$", page, re.MULTILINE), name
        for one in command.commands.values() if isinstance(command, click.Group) else [command]:
            for parameter in one.params:
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    assert f"{parameter.opts[-1]}" in page, f"{name}: {parameter.opts}"
