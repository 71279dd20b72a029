"""Leases by name."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from asynctasq.brokers import Broker, Coordinating

from .fixtures import BrokerFixtures, becomes


class LeadingTests(BrokerFixtures):
    """Of all who ask for a name, one has it, until its time is up or it resigns."""

    @pytest.fixture
    def name(self) -> str:
        """A name that nobody has asked for."""
        return f"lead-{uuid4().hex[:12]}"

    @pytest.fixture
    def one(self, broker: Broker) -> Coordinating:
        """A broker that coordinates."""
        return self._coordinating(broker)

    @pytest.fixture
    def other(self, other_broker: Broker) -> Coordinating:
        """A second such broker on the same store."""
        return self._coordinating(other_broker)

    def _coordinating(self, broker: Broker) -> Coordinating:
        self.need("coordinates")
        assert isinstance(broker, Coordinating)
        return broker

    async def test_who_leads_renews_while_others_are_refused(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        for _ in range(2):
            assert await one.lead(name, "a", 60)
            assert not await other.lead(name, "b", 60)
            assert not await one.lead(name, "b", 60)
        assert await other.lead(name, "a", 60)

    async def test_names_are_led_apart(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        assert await one.lead(f"{name}-1", "a", 60)
        assert await other.lead(f"{name}-2", "b", 60)
        assert not await one.lead(f"{name}-2", "a", 60)

    async def test_another_leads_once_the_time_of_the_first_is_over(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        started = time.monotonic()
        assert await one.lead(name, "a", self.lease_seconds)

        async def taken_over() -> bool:
            return await other.lead(name, "b", 60)

        assert await becomes(taken_over)
        assert self.lease_seconds * 0.8 <= time.monotonic() - started < self.lease_seconds + 1
        assert not await one.lead(name, "a", 60)

    async def test_a_renewed_lead_lasts_from_its_last_renewal(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        assert await one.lead(name, "a", self.lease_seconds)
        assert await one.lead(name, "a", 60)
        await asyncio.sleep(self.lease_seconds + 0.1)  # the first holder's time must run out
        assert not await other.lead(name, "b", 60)
        assert await one.lead(name, "a", self.lease_seconds)

        async def taken_over() -> bool:
            return await other.lead(name, "b", 60)

        assert await becomes(taken_over, self.lease_seconds + 2)

    async def test_who_resigns_is_followed_at_once(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        assert await one.lead(name, "a", 60)
        await one.resign(name, "a")
        assert await other.lead(name, "b", 60)

    async def test_only_who_leads_can_resign(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        await one.resign(name, "nobody")
        assert await one.lead(name, "a", 60)
        await other.resign(name, "b")
        assert not await other.lead(name, "b", 60)

    async def test_of_many_who_ask_at_once_one_leads(
        self, one: Coordinating, other: Coordinating, name: str
    ) -> None:
        brokers = (one, other) * 10
        answers = await asyncio.gather(*(b.lead(name, f"{i}", 60) for i, b in enumerate(brokers)))
        assert answers.count(True) == 1
