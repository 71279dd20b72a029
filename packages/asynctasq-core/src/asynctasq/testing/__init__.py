"""Conformance suites for what others add to asynctasq, as pytest classes to subclass.

Needs pytest and pytest-asyncio, which nothing else of asynctasq imports.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("asynctasq.testing.brokers", "asynctasq.testing.broker_suite")

from .broker_suite import BrokerSuite, OpenBroker, StartConsumer  # noqa: E402

__all__ = ["BrokerSuite", "OpenBroker", "StartConsumer"]
