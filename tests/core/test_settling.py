"""Settling as a worker stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from asynctasq.app import App
from asynctasq.brokers import Consumer, ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq.worker.settling import Settler


class Answering:
    """A consumer whose answers come late: what it is told is applied before.

    Attributes:
        times: How often it was told of outcomes.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.times = 0
        self.applied, self.answer = asyncio.Event(), asyncio.Event()

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        self.times += 1
        lost = await self._consumer.settle(outcomes)
        self.applied.set()
        await self.answer.wait()
        return lost


async def test_what_is_being_settled_when_a_worker_stops_is_told_once_and_not_lost(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    broker = app.open_broker()
    info = WorkerInfo("w", "host", 1, ("default",), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("default",)))
    await consumer.start()
    await broker.put([Outgoing("default", name, b"") for name in ("a", "b")])
    first, second = await consumer.take(2, 1)
    late: Any = Answering(consumer)
    settler = Settler(late, lambda outcome: outcome)
    running = asyncio.create_task(settler.run())
    settler.add(Outcome(first))
    await late.applied.wait()
    settler.add(Outcome(second))
    running.cancel()
    await asyncio.wait({running})
    finishing = asyncio.create_task(settler.finish())
    late.answer.set()
    async with asyncio.timeout(10):
        await finishing
    assert late.times == 2
    assert await consumer.idle()
    assert "lease lost" not in caplog.text
