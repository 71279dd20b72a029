"""Testing an application (`Calls`), and testing adapters and brokers for asynctasq (the suites).

The conformance suites are pytest classes to subclass, and need pytest and pytest-asyncio: install
`asynctasq-core[testing]`. `Calls` needs neither.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .calls import Calls
from .sent import Sent

if TYPE_CHECKING:
    from .adapter_run import check_adapter_suite, run_adapter_suite
    from .adapter_suite import AdapterSuite, logged
    from .broker_suite import BrokerSuite, OpenBroker, OpenTransaction, StartConsumer

__all__ = [
    "AdapterSuite",
    "BrokerSuite",
    "Calls",
    "OpenBroker",
    "OpenTransaction",
    "Sent",
    "StartConsumer",
    "check_adapter_suite",
    "logged",
    "run_adapter_suite",
]

_SUITES = {
    "AdapterSuite": "adapter_suite",
    "BrokerSuite": "broker_suite",
    "OpenBroker": "broker_suite",
    "OpenTransaction": "broker_suite",
    "StartConsumer": "broker_suite",
    "check_adapter_suite": "adapter_run",
    "logged": "adapter_suite",
    "run_adapter_suite": "adapter_run",
}


def __getattr__(name: str) -> Any:
    """The suites, which need pytest and are imported on first use."""
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("pytest") is not None:
        _rewrite_assertions()
    return getattr(import_module(f".{_SUITES[name]}", __name__), name)


@cache
def _rewrite_assertions() -> None:
    import pytest

    modules = ("adapters", "adapter_suite", "brokers", "broker_suite")
    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in modules))


# Also for code that imports a part of a suite by its own module.
if "pytest" in sys.modules:
    _rewrite_assertions()
