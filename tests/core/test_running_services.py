"""A worker that stops lets the turn of a service end, for a while."""

from __future__ import annotations

import asyncio

import pytest
from asynctasq.brokers.memory.broker import MemoryBroker
from asynctasq.services import running
from asynctasq.services.running import run_services


class Turning:
    """A service whose turn takes until it is told to end."""

    name = "turning"
    interval_seconds = 60.0

    def __init__(self) -> None:
        self.began, self.may_end, self.seen = asyncio.Event(), asyncio.Event(), ""

    async def turn(self) -> None:
        self.began.set()
        try:
            await self.may_end.wait()
            self.seen = "ended"
        except asyncio.CancelledError:
            self.seen = "cancelled"
            raise


async def test_a_turn_that_has_begun_ends_by_itself() -> None:
    service = Turning()
    services = asyncio.create_task(run_services(MemoryBroker(), "w", [service]))
    await service.began.wait()
    services.cancel()
    asyncio.get_running_loop().call_later(0.05, service.may_end.set)
    await asyncio.wait({services})
    assert (services.cancelled(), service.seen) == (True, "ended")


async def test_a_turn_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_LAST_TURN_SECONDS", 0.05)
    service = Turning()
    services = asyncio.create_task(run_services(MemoryBroker(), "w", [service]))
    await service.began.wait()
    services.cancel()
    await asyncio.wait({services})
    assert (services.cancelled(), service.seen) == (True, "cancelled")
