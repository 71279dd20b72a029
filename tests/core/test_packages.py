"""Which names of one package another one may use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import asynctasq
import asynctasq.brokers
import asynctasq.deadletters
import asynctasq.events
import asynctasq.looking
import asynctasq.testing
import pytest

ADAPTERS = sorted(
    path.parent
    for path in (Path(__file__).parents[2] / "packages").glob("asynctasq-*/src/*/__init__.py")
    # The dashboard looks deeper than a plugin; import-linter knows how deep.
    if path.parent.name not in ("asynctasq", "asynctasq_dashboard")
)
PUBLIC = {
    "asynctasq": [*asynctasq.__all__, "deadletters", "history", "looking", "pausing", "scheduling"],
    "asynctasq.brokers": asynctasq.brokers.__all__,
    "asynctasq.events": asynctasq.events.__all__,
    "asynctasq.deadletters": asynctasq.deadletters.__all__,
    "asynctasq.looking": asynctasq.looking.__all__,
    "asynctasq.testing": asynctasq.testing.__all__,
    "asynctasq.cli": ["cli"],
}


def imported_from_core(path: Path) -> Iterator[tuple[str, str]]:
    """Modules of core and the names that are imported from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = (alias.name for alias in node.names)
            yield from ((m, "") for m in modules if m.startswith("asynctasq."))
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("asynctasq."):
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_an_adapter_uses_only_public_names_of_core(adapter: Path) -> None:
    found = [pair for path in adapter.rglob("*.py") for pair in imported_from_core(path)]
    assert found
    assert [pair for pair in found if pair[1] not in PUBLIC.get(pair[0], ())] == []
