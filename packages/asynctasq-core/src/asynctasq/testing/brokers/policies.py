"""What the suite's parts for policies share: messages with policies, threads that race."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from asynctasq.brokers import (
    Broker,
    Consumer,
    KeyInUse,
    LimitKey,
    Outcome,
    Outgoing,
    Policing,
    Policy,
    RateKey,
    UniqueKey,
)

from .fixtures import BrokerFixtures, OpenBroker, ids, message


class PolicedFixtures(BrokerFixtures):
    """What tests of a `Policing` broker share."""

    async def key(self, broker: Broker, queue: str, key: str) -> KeyInUse | None:
        """The key, if it is in use."""
        assert isinstance(broker, Policing)
        found = next((k for k in await broker.keys_in_use(queue) if k.key == key), None)
        assert found is None or type(found.waiting) is int
        return found


def limited(
    queue: str, message_id: str, key: str = "key", most: int = 1, delay: float = 0
) -> Outgoing:
    """A message with a limit."""
    return with_policy(message(queue, message_id, delay=delay), limit=LimitKey(key, most))


def rated(
    queue: str, message_id: str, key: str = "key", seconds: float = 60, burst: int = 1
) -> Outgoing:
    """A message with a rate."""
    return with_policy(message(queue, message_id), rate=RateKey(key, seconds, burst))


def unique(
    queue: str, message_id: str, key: str = "key", body: bytes = b"", **how: Any
) -> Outgoing:
    """A message with a unique key."""
    delay = how.pop("delay", 0)
    return with_policy(message(queue, message_id, body, delay), unique=UniqueKey(key, **how))


def with_policy(outgoing: Outgoing, **parts: Any) -> Outgoing:
    """The message with this policy."""
    outgoing.policy = Policy(**parts)
    return outgoing


async def run_all(
    consumer: Consumer, count: int, room: int = 10, timeout_seconds: float = 30
) -> list[str]:
    """Take and finish `count` messages; return their ids in the order of delivery."""
    ran: list[str] = []
    async with asyncio.timeout(timeout_seconds):
        while len(ran) < count:
            taken = await consumer.take(min(room, count - len(ran)), 1)
            ran += ids(taken)
            await consumer.settle([Outcome(delivery) for delivery in taken])
    return ran


def in_threads(
    open_broker: OpenBroker, count: int, work: Callable[[Broker, int], Coroutine[Any, Any, Any]]
) -> list[Any]:
    """Start threads at once, each with a broker and an event loop; return their results."""
    brokers = [open_broker() for _ in range(count)]
    start = threading.Barrier(count)
    results: list[Any] = [None] * count

    async def main(i: int) -> Any:
        start.wait(30)
        try:
            return await work(brokers[i], i)
        finally:
            await brokers[i].close()

    def run(i: int) -> None:
        try:
            results[i] = asyncio.run(main(i))
        except BaseException as e:  # noqa: BLE001 - raised again in the test's thread
            results[i] = e

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
