"""The Redis broker keeps every promise of the broker protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest_asyncio
import redis.asyncio
from asynctasq import RedisConfig
from asynctasq.brokers import Broker
from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.testing import BrokerSuite, OpenBroker

from ..servers import redis_url


class TestRedisBroker(BrokerSuite):
    due_goes_first = False
    lists = True
    coordinates = True
    remembers = True
    pauses = True
    polices = True

    @pytest_asyncio.fixture
    async def open_broker(self) -> AsyncIterator[OpenBroker]:
        url = redis_url()
        prefix = f"test-{uuid4().hex}"
        brokers: list[Broker] = []

        def open_one() -> Broker:
            brokers.append(RedisBroker(RedisConfig(url=url, key_prefix=prefix)))
            return brokers[-1]

        yield open_one
        for broker in brokers:
            await broker.close()
        async with redis.asyncio.Redis.from_url(url) as client:
            async for key in client.scan_iter(f"{prefix}:*", count=1000):
                await client.delete(key)
