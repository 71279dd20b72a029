"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import servers


@pytest.fixture(scope="session", autouse=True)
def _own_servers() -> Iterator[None]:
    yield
    servers.end_started()
