"""The Redis broker on a cluster: every promise, and what happens when slots and masters move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from asynctasq.brokers import Broker
from asynctasq.brokers.redis import RedisBroker
from asynctasq.config import RedisConfig
from asynctasq.testing import BrokerSuite, OpenBroker


@pytest.fixture(scope="module")
def cluster(start_cluster: Any) -> Any:
    return start_cluster(3)


class TestRedisClusterBroker(BrokerSuite):
    due_goes_first = False

    @pytest_asyncio.fixture
    async def open_broker(self, cluster: Any) -> AsyncIterator[OpenBroker]:
        prefix = f"test-{uuid4().hex}"
        brokers: list[Broker] = []

        def open_one() -> Broker:
            config = RedisConfig(url=cluster[0].url, cluster=True, key_prefix=prefix)
            brokers.append(RedisBroker(config))
            return brokers[-1]

        yield open_one
        for broker in brokers:
            await broker.close()
