"""Conformance suites for what others add to asynctasq, as pytest classes to subclass.

Needs pytest and pytest-asyncio, which nothing else of asynctasq imports: install
`asynctasq-core[testing]`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "asynctasq.testing.adapters",
    "asynctasq.testing.adapter_suite",
    "asynctasq.testing.brokers",
    "asynctasq.testing.broker_suite",
    "asynctasq.testing.adapter_report",
    "asynctasq.testing.mutants",
)

from .adapter_run import check_adapter_suite, run_adapter_suite  # noqa: E402
from .adapter_suite import AdapterSuite, logged  # noqa: E402
from .broker_suite import BrokerSuite, OpenBroker, StartConsumer  # noqa: E402

__all__ = [
    "AdapterSuite",
    "BrokerSuite",
    "OpenBroker",
    "StartConsumer",
    "check_adapter_suite",
    "logged",
    "run_adapter_suite",
]
