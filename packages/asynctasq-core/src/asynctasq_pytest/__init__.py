"""The pytest plugin of asynctasq: one fixture, and nothing before it is used.

A package of its own, so that pytest imports no asynctasq at its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asynctasq.testing import Calls


@pytest.fixture
def asynctasq_calls() -> Iterator[Calls]:
    """The calls that the application dispatches in this test; see `asynctasq.testing.Calls`."""
    from asynctasq.testing import Calls

    with Calls() as calls:
        yield calls
