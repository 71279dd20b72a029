"""The guide's blocks are the Peewee adapter, whole.

That the adapter passes its suite is tested where it is installed: `test_peewee_example.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from asynctasq.adapters import hookspecs
from asynctasq.testing import AdapterSuite

from .conftest import ROOT, Page

EXAMPLE = ROOT / "examples" / "asynctasq-peewee"


@pytest.fixture(scope="module")
def guide(page: Callable[[str], Page]) -> Page:
    return page("writing-an-adapter.md")


def test_the_blocks_put_together_are_the_example(guide: Page) -> None:
    files = {p for p in EXAMPLE.rglob("*") if p.suffix in (".py", ".toml")}
    assert guide.files() == {str(p.relative_to(EXAMPLE)): p.read_text() for p in files}


def test_every_block_is_of_the_example_or_a_command_that_a_test_runs(guide: Page) -> None:
    assert all(block.file or block.language == "bash" for block in guide.blocks)


def test_the_example_has_fewer_than_450_lines_of_python_and_its_adapter_than_330() -> None:
    lines = {m.name: len(m.read_text().splitlines()) for m in EXAMPLE.rglob("*.py")}
    assert sum(lines.values()) < 450
    assert lines["adapter.py"] + lines["__init__.py"] < 330


def test_the_example_imports_public_names_only() -> None:
    for module in EXAMPLE.rglob("*.py"):
        found = re.findall(r"(?:from|import) (asynctasq(?!_)[\w.]*)", module.read_text())
        assert set(found) <= {"asynctasq", "asynctasq.testing"}


def test_the_guide_mentions_every_hook_and_every_flag(guide: Page) -> None:
    assert {h for h in hookspecs.HOOKS if f"`{h}`" not in guide.text} <= {"adapter_suite"}
    flags = set(re.findall(r"^\| `(\w+)`", guide.text.partition("And with the flags")[2], re.M))
    declared = next(c for c in AdapterSuite.__mro__ if "composite_keys" in vars(c))
    known = {name for name, value in vars(declared).items() if isinstance(value, bool)}
    assert flags | {"asynchronous"} == known


def test_links_to_other_places_lead_somewhere(guide: Page) -> None:
    headings = {_anchor(h) for h in re.findall(r"^#+ (.*)$", guide.text, re.MULTILINE)}
    hooks = (ROOT / "docs" / "hooks.md").read_text()
    others = {_anchor(h) for h in re.findall(r"^#+ (.*)$", hooks, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", guide.text):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).exists(), target
        assert not anchor or anchor in (others if path else headings), target


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
