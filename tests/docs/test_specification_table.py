"""The table in docs/specification.md is complete, and what it names exists."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from . import specification
from .differences import EXAMPLES

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "specification.md").read_text()
_ROW = re.compile(r"^\| (?!the specification \|)(.+?) \| (.+) \|$", re.MULTILINE)
_FINDING = re.compile(r'doctor: "(.+)" \(`(.+)`\)')
EVIDENCE = sorted({part for _, cell in _ROW.findall(TABLE) for part in cell.split("<br>")})
TESTS = sorted(set(re.findall(r"`([^`]+::[^`]+)`", TABLE)))
FINDINGS = [found.groups() for part in EVIDENCE if (found := _FINDING.fullmatch(part))]


def rows_of(section: str) -> list[tuple[str, str]]:
    """The table of a section: line, and what stands for it."""
    return _ROW.findall(TABLE.partition(f"\n## {section}\n")[2].partition("\n## ")[0])


def test_the_sections_are_those_of_the_specification() -> None:
    assert re.findall(r"^## (.+)$", TABLE, re.MULTILINE) == list(specification.sections())


@pytest.mark.parametrize("section", specification.sections())
def test_each_section_has_a_row_for_each_line(section: str) -> None:
    rows = [line for line, _ in rows_of(section)]
    assert rows == specification.sections()[section]


def test_each_example_names_the_test_that_runs_it() -> None:
    cells = [
        cell
        for section in specification.sections()
        for line, cell in rows_of(section)
        if line == specification.EXAMPLE
    ]
    for name, cell in zip(EXAMPLES, cells, strict=True):
        tests = re.findall(r"`([^`]+::[^`]+)`", cell)
        assert any(f'as_run("{name}")' in source_of(test) for test in tests), name


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_every_evidence_is_of_a_known_kind(evidence: str) -> None:
    kinds = r"`[^`]+::[^`]+`", _FINDING, r"\[([^]]+)\]\(\1\)", r"differs: .+"
    assert any(re.fullmatch(kind, evidence) for kind in kinds)


@cache
def definitions_in(path: str) -> dict[str, str]:
    """The tests, and the classes of tests, that a module defines: name -> code."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    text = (ROOT / path).read_text()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return {node.name: ast.get_source_segment(text, node) or "" for node in nodes}


def source_of(test: str) -> str:
    """The code of a test."""
    path, _, name = test.partition("::")
    return definitions_in(path)[name]


@pytest.mark.parametrize("test", TESTS)
def test_each_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.match(r"test_|Test", name)
    assert name in definitions_in(path)


def texts_in(code: str) -> list[str]:
    """Every piece of text in code, without docstrings."""
    nodes = list(ast.walk(ast.parse(code)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [n.value for n in texts if isinstance(n.value, str)]


@pytest.mark.parametrize(("finding", "test"), FINDINGS)
def test_each_finding_is_said_by_an_adapter_and_asserted_by_its_test(
    finding: str, test: str
) -> None:
    adapter = test.split("/")[1]
    doctor = (ROOT / f"packages/asynctasq-{adapter}/src/asynctasq_{adapter}/doctor.py").read_text()
    assert any(finding in text for text in texts_in(doctor))
    asserted = [text for text in texts_in(source_of(test)) if len(text) >= 7]
    assert any(text in finding or finding in text for text in asserted)


def test_the_packages_require_what_the_specification_says() -> None:
    for package, bound in (
        ("asynctasq-sqlalchemy", "SQLAlchemy[asyncio]>=2.0.22"),
        ("asynctasq-sqlalchemy", "greenlet>=3.0.0"),
        ("asynctasq-django", "Django>=5.0"),
        ("asynctasq-tortoise", "tortoise-orm>=0.21"),
    ):
        required: list[str] = project(package)["dependencies"]
        assert any(r.partition(",")[0] == bound for r in required), bound


def test_each_extra_names_its_adapter() -> None:
    extras = project("asynctasq")["optional-dependencies"]
    for orm in ("sqlalchemy", "django", "tortoise"):
        (required,) = extras[orm]
        assert required.startswith(f"asynctasq-{orm}>=")
        assert required in extras["all"]


def project(package: str) -> dict[str, Any]:
    """What `pyproject.toml` of a package says of it."""
    text = (ROOT / "packages" / package / "pyproject.toml").read_text()
    found: dict[str, Any] = tomllib.loads(text)["project"]
    return found
