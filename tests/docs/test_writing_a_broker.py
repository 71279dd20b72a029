"""The guide's blocks are the toy broker, whole, and it leaves out nothing of the contract.

That the broker passes its suite is tested where it is installed: `test_toybroker_example.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest
from asynctasq.brokers import (
    Action,
    Broker,
    Consumer,
    Consuming,
    Coordinating,
    Looking,
    Outcome,
    Outgoing,
    Sending,
)
from asynctasq.testing import BrokerSuite

from .conftest import ROOT, Page

EXAMPLE = ROOT / "examples" / "asynctasq-toybroker"


@pytest.fixture(scope="module")
def guide(page: Callable[[str], Page]) -> Page:
    return page("writing-a-broker.md")


def test_the_blocks_put_together_are_the_example(guide: Page) -> None:
    files = {p for p in EXAMPLE.rglob("*") if p.suffix in (".py", ".toml")}
    assert guide.files() == {str(p.relative_to(EXAMPLE)): p.read_text() for p in files}


def test_every_block_is_of_the_example_or_a_command_that_a_test_runs(guide: Page) -> None:
    assert all(block.file or block.language == "bash" for block in guide.blocks)


def test_the_example_imports_public_names_only() -> None:
    for module in EXAMPLE.rglob("*.py"):
        found = re.findall(r"(?:from|import) (asynctasq(?!_)[\w.]*)", module.read_text())
        assert set(found) <= {"asynctasq", "asynctasq.brokers", "asynctasq.testing"}


@pytest.mark.parametrize("protocol", [Sending, Consuming, Consumer, Looking, Coordinating, Broker])
def test_the_guide_explains_every_method(guide: Page, protocol: type) -> None:
    text = re.sub(r"^```\w.*?^```$", "", guide.text, flags=re.MULTILINE | re.DOTALL)
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    attributes = inspect.get_annotations(protocol)
    assert methods
    assert [name for name in attributes if f"`{name}`" not in text] == []
    assert [name for name in methods if f"`{name}`" not in text and f"`{name}(" not in text] == []
    for name in methods:
        for parameters in re.findall(rf"`{name}\(([^)]*)\)`", text):
            shown = [parameter.strip(" =") for parameter in parameters.split(",") if parameter]
            assert shown == list(inspect.signature(getattr(protocol, name)).parameters)[1:]


def test_the_guide_explains_every_action_and_what_comes_with_it(guide: Page) -> None:
    assert set(re.findall(r"^\| `([A-Z]+)`", guide.text, re.MULTILINE)) == {a.name for a in Action}
    for values in (Outgoing, Outcome):
        fields = set(values.__dataclass_fields__) - {"delivery", "action"}
        assert [name for name in fields if f"`{name}`" not in guide.text] == []


def test_the_guide_names_every_part_and_every_flag_of_the_suite(guide: Page) -> None:
    parts = {base.__name__ for base in BrokerSuite.__bases__}
    assert {part for part in parts if f"`{part}`" not in guide.text} == set()
    fixtures = BrokerSuite.__mro__[-2]
    flags = {n for n, v in vars(fixtures).items() if isinstance(v, int | float) and n[0] != "_"}
    table = guide.text.partition("Attributes of the subclass")[2].partition("\n\nThe fixtures")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == flags


def test_the_failures_that_are_explained_are_of_tests_that_exist(guide: Page) -> None:
    tests = [name for name in dir(BrokerSuite) if name.startswith("test_")]
    patterns = re.findall(r"`(\.\.\.\w+(?:\.\.\.)?)`", guide.text)
    assert len(patterns) > 8
    for pattern in patterns:
        expression = re.compile(".*".join(pattern.split("...")))
        assert [name for name in tests if expression.search(name)], pattern


def test_links_to_other_places_lead_somewhere(guide: Page) -> None:
    headings = {_anchor(h) for h in re.findall(r"^#+ (.*)$", guide.text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", guide.text):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).exists(), target
        assert not anchor or anchor in headings, target


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
