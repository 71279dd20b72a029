"""The suite of brokers, on a folder of its own; it needs the extra `testing`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from asynctasq.brokers import Broker
from asynctasq.testing import BrokerSuite, OpenBroker

from . import Config, open


class TestToy(BrokerSuite):
    coordinates = True

    @pytest_asyncio.fixture
    async def open_broker(self, tmp_path: Path) -> AsyncIterator[OpenBroker]:
        brokers: list[Broker] = []

        def open_one() -> Broker:
            brokers.append(open(Config(folder=tmp_path)))
            return brokers[-1]

        yield open_one
        for broker in brokers:
            await broker.close()
