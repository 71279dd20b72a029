"""The table in docs/specification.md is complete, and what it names exists."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from .test_examples import anchors

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "specification.md").read_text()
ROWS = dict(re.findall(r"^\| (?!the specification \|)(.+?) \| (.+) \|$", TABLE, re.MULTILINE))
EVIDENCE = sorted({part for cell in ROWS.values() for part in cell.split("<br>")})
TESTS = [part.strip("`") for part in EVIDENCE if part.startswith("`")]
FINDINGS = [part for part in EVIDENCE if part.startswith("doctor: ")]
LINKS = [part for part in EVIDENCE if part.startswith("[")]


def listed() -> dict[str, list[str]]:
    """Every tick, step, checklist line and issue of the specification, by its section."""
    found: dict[str, list[str]] = {}
    for line in (Path(__file__).parent / "specification_rows.txt").read_text().splitlines():
        if line.startswith("# "):
            rows = found[line[2:]] = []
        else:
            rows.append(line)
    return found


@pytest.mark.parametrize("section", listed())
def test_each_section_has_a_row_for_each_line(section: str) -> None:
    table = TABLE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!the specification \|)(.+?) \| .+ \|$", table, re.MULTILINE)
    assert rows == listed()[section]


def test_every_evidence_is_of_a_known_kind() -> None:
    assert len(TESTS) + len(FINDINGS) + len(LINKS) == len(EVIDENCE)
    assert all((TESTS, FINDINGS, LINKS))


@cache
def names_in(path: Path) -> set[str]:
    """The tests, and the classes of tests, that a module defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("test", TESTS)
def test_each_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.match(r"test_|Test", name)
    assert name in names_in(ROOT / path)


@cache
def texts_of_adapters() -> tuple[str, ...]:
    """Every piece of text in the code of the adapters."""
    trees = [ast.parse(p.read_text()) for p in ROOT.glob("packages/asynctasq-*/src/**/*.py")]
    constants = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return tuple(n.value for n in constants if isinstance(n.value, str))


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_is_what_an_adapter_says(finding: str) -> None:
    text = finding.removeprefix('doctor: "').removesuffix('"')
    assert any(text in other for other in texts_of_adapters())


@pytest.mark.parametrize("link", LINKS)
def test_each_section_named_exists(link: str) -> None:
    page, _, anchor = re.sub(r".*\((.*)\)", r"\1", link).partition("#")
    assert anchor in anchors(ROOT / "docs" / page)


def test_the_packages_require_what_the_specification_says() -> None:
    for package, bound in (
        ("asynctasq-sqlalchemy", "SQLAlchemy[asyncio]>=2.0.22"),
        ("asynctasq-sqlalchemy", "greenlet>=3.0.0"),
        ("asynctasq-django", "Django>=5.0"),
        ("asynctasq-tortoise", "tortoise-orm>=0.21"),
    ):
        project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())
        required: list[str] = project["project"]["dependencies"]
        assert any(r.partition(",")[0] == bound for r in required), bound
