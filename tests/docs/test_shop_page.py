"""The page of the shop shows the models of the examples, and the way to try these works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

import pytest

from .conftest import ROOT, Page

CONTEXT = ROOT / "tests" / "docs" / "contexts" / "shop.py"
#: A block of `docs/tasks.md` with models, up to the lines that send.
BLOCK = re.compile(
    r"needs: shop -->\n```python\n(?P<tasks>.*?)\n\n\n(?P<main>async with .*?)```"
    r"\n\n```text\n(?P<printed>.*?)```",
    re.DOTALL,
)
#: What the same page says to put these lines into.
SENDER = re.compile(
    r"```text\n(?P<code>import asyncio\n.*?)    \.\.\.  # here\n(?P<end>.*?)```", re.DOTALL
)


@pytest.fixture
def shop(page: Callable[[str], Page]) -> Page:
    return page("examples/shop.md")


def run(folder: Path, *command: str) -> str:
    """Run a command where the page's files are; its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ASYNCTASQ_", "DJ"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**inherited, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_the_models_that_the_examples_use(shop: Page) -> None:
    (code,) = [block.code for block in shop.blocks if block.language == "python"]
    assert code == CONTEXT.read_text()


def test_a_block_is_tried_as_the_pages_say(
    shop: Page, page: Callable[[str], Page], tmp_path: Path
) -> None:
    command, code = (block.code for block in shop.blocks)
    tasks = page("tasks.md").text
    block, sender = BLOCK.search(tasks), SENDER.search(tasks)
    assert block
    assert sender
    (tmp_path / "shop.py").write_text(code)
    (tmp_path / "page.py").write_text(f"from shop import *\n{block['tasks']}\n")
    main = indent(block["main"], "    ")
    (tmp_path / "send.py").write_text(f"{sender['code']}{main}{sender['end']}")
    run(tmp_path, "sh", "-c", command)
    run(tmp_path, "python", "send.py")
    assert run(tmp_path, "asynctasq", "worker", "page.py", "--burst") == block["printed"]
