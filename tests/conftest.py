"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import servers


@pytest.fixture(scope="session", autouse=True)
def _own_servers() -> Iterator[None]:
    yield
    servers.end_started()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `hatch run test-all` uses."""
    parser.addoption(
        "--all-parts",
        action="store_true",
        help="run the suites of adapters whole on every driver, not only what depends on drivers",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another driver's class shows, where a class has `parts`."""
    if config.getoption("--all-parts"):
        return
    left_out = [item for item in items if isinstance(item, pytest.Function) and _is_extra(item)]
    config.hook.pytest_deselected(items=left_out)
    extra = set(left_out)
    items[:] = [item for item in items if item not in extra]


def _is_extra(item: pytest.Function) -> bool:
    parts: tuple[type, ...] = getattr(item.cls, "parts", ())
    defined_in = item.function.__qualname__.partition(".")[0]
    return bool(parts) and defined_in not in {part.__name__ for part in (*parts, item.cls)}
