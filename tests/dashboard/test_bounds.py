"""Looking stays cheap: what a page asks the broker does not grow with what lies there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import asynctasq
import httpx
import msgpack
import pytest
from asynctasq.app import current
from asynctasq.brokers import Action, ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq.brokers.memory.broker import MemoryBroker
from asynctasq.wire.message import Message
from asynctasq_dashboard import dashboard
from asynctasq_dashboard.pages import LINES

QUEUES, DEAD = 1000, 100_000

PATHS = (
    "/",
    "/queues",
    "/dead",
    "/dead?by=one",
    "/dead?by=one&queue=q7",
    "/dead?by=one&offset=90000",
    "/dead?arguments=nothing-like-this",
    "/dead?by=one&arguments=nothing-like-this",
    "/workers",
    "/schedules",
    "/keys",
    "/call?id=nothing-like-this&queue=q7",
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a broker in memory is asked what, and for how many dead letters."""
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="memory")
    count: Counter[str] = Counter()

    def counted(name: str) -> Any:
        method = getattr(MemoryBroker, name)

        async def ask(self: MemoryBroker, *args: Any, **kwargs: Any) -> Any:
            count["questions"] += 1
            count["letters"] += kwargs.get("limit", 1) if name == "dead_letters" else 0
            return await method(self, *args, **kwargs)

        return ask

    for name in ("stats", "workers", "dead_letters", "find_dead", "values", "value", "keys_in_use"):
        monkeypatch.setattr(MemoryBroker, name, counted(name))
    return count


async def fill(queues: int, dead: int) -> None:
    broker = current().open_broker()
    names = tuple(f"q{n}" for n in range(queues))
    info: bytes = msgpack.packb({"task": "shop.bill", "error": "ValueError: no", "attempts": 1})
    consumer = broker.consumer(ConsumerOptions(WorkerInfo("w", "h", 1, ("q7",), 1, 0.0), ("q7",)))
    await consumer.start()
    for first in range(0, dead, 10_000):
        many = range(first, min(first + 10_000, dead))
        bodies = [(f"{n:032x}", Message("i", "shop.bill", b"\x92\x90\x80", 0.0)) for n in many]
        await broker.put([Outgoing("q7", i, message.encode()) for i, message in bodies])
        taken = await consumer.take(len(many), 0)
        await consumer.settle([Outcome(each, Action.DEAD, info=info) for each in taken])
    await broker.put([Outgoing(name, "x", b"") for name in names])
    await consumer.stop()


async def test_no_page_asks_more_of_full_queues(asked: Counter[str]) -> None:
    await fill(QUEUES, DEAD)
    application = dashboard(authorize=lambda request: True)
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as visitor:
        for path in PATHS:
            asked.clear()
            answer = await visitor.get(path)
            assert answer.status_code in (200, 404), path
            assert answer.text.count("<tr") <= LINES + 20, path
            assert asked["questions"] <= 30, path
            assert asked["letters"] <= 5500, path
            assert len(answer.content) < 300_000, path
