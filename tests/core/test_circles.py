"""No distribution has a circle of imports, nor one that an import inside a function only hides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("packages/*/src"), *ROOT.glob("examples/*/src")])


def imports_of(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All but those that a type checker alone reads: a signature may name what is above it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from imports_of(node)


def named_by(node: ast.Import | ast.ImportFrom, package: list[str]) -> Iterator[str]:
    """The modules, or their attributes, that an import names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = package[: len(package) - node.level + 1] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    yield from (f"{module}.{alias.name}" for alias in node.names)


def graph_of(source: Path) -> dict[str, set[str]]:
    """Which modules of a distribution each of them imports."""
    files = {}
    for file in source.rglob("*.py"):
        parts = list(file.relative_to(source).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = parts[:-1] if is_package else parts
        files[".".join(name)] = (file, name if is_package else name[:-1])
    graph: dict[str, set[str]] = {}
    for module, (file, package) in files.items():
        wanted = set()
        for node in imports_of(ast.parse(file.read_text())):
            for path in named_by(node, package):
                wanted |= {path, path.rpartition(".")[0]} & files.keys()
        # A submodule's package is imported before it anyway.
        ancestors = {module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)}
        graph[module] = wanted - ancestors - {module}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; empty if there is none."""
    done: set[str] = set()

    def look(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if circle := look(other, [*way, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := look(name, []))), [])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.parent.name)
def test_no_module_imports_itself_by_way_of_others(source: Path) -> None:
    assert circle_in(graph_of(source)) == []


def test_circles_are_found(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("def go():\n    from .one import f\n")
    (package / "one.py").write_text("from . import two\n")
    (package / "two.py").write_text("def g():\n    import pkg.three\n")
    (package / "three.py").write_text("if True:\n    from .one import f\n")
    assert circle_in(graph_of(tmp_path)) == ["pkg.one", "pkg.two", "pkg.three"]
    (package / "three.py").write_text("if TYPE_CHECKING:\n    from .one import f\n")
    assert circle_in(graph_of(tmp_path)) == []
