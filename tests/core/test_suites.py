"""The suites for adapters and brokers: their parts do not get in each other's way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from asynctasq.testing import AdapterSuite, BrokerSuite


@pytest.mark.parametrize("suite", [AdapterSuite, BrokerSuite])
def test_no_part_of_a_suite_hides_a_test_or_a_fixture_of_another(suite: Any) -> None:
    parts = suite.__bases__
    names = Counter(name for part in parts for name in vars(part) if not name.startswith("__"))
    del names["needs"]  # the capabilities of each part
    assert [name for name, count in names.items() if count > 1] == []
