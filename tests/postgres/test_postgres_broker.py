"""The PostgreSQL broker keeps every promise of the broker protocol."""

from __future__ import annotations

import pytest_asyncio
from asynctasq.testing import BrokerSuite, OpenBroker

from .brokers import OpenPostgres


class TestPostgresBroker(BrokerSuite):
    lists = True
    coordinates = True
    polices = True
    remembers = True
    pauses = True

    @pytest_asyncio.fixture
    async def open_broker(self, open_postgres: OpenPostgres) -> OpenBroker:
        return open_postgres
