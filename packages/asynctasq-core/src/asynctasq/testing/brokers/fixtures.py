"""What every part of the suite stands on: brokers, consumers, messages, conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol
from uuid import uuid4

import pytest
import pytest_asyncio

from asynctasq.brokers import Broker, Consumer, ConsumerOptions, Delivery, Outgoing, WorkerInfo

OpenBroker = Callable[[], Broker]
"""Gives a new broker on the store that all brokers of one test share."""


class StartConsumer(Protocol):
    """Starts a consumer of its own worker; without queues, of the test's queue."""

    async def __call__(
        self, broker: Broker, *queues: str, lease_seconds: float = 30.0
    ) -> Consumer: ...


@pytest.mark.asyncio
class BrokerFixtures:
    """Fixtures of `BrokerSuite`; see there. The subclass gives `open_broker`.

    Attributes:
        needs: The capability that the tests of a part need, set in the part's own class.
    """

    lease_seconds = 0.6
    due_goes_first = True
    bulk = 5000
    coordinates = False
    polices = False
    remembers = False
    joins_transactions = False
    lists = False
    pauses = False
    needs = ""

    @pytest.fixture(autouse=True)
    def _needs_capability(self, request: pytest.FixtureRequest) -> None:
        # The suite inherits from all of its parts, so what one of them needs is looked up in the
        # class that the test stands in.
        name = request.function.__name__
        part = next(owner for owner in type(self).__mro__ if name in vars(owner))
        if capability := vars(part).get("needs"):
            self.need(capability)

    def need(self, capability: str) -> None:
        """Skip a test of what the broker cannot do."""
        if not getattr(self, capability):
            pytest.skip(f"the broker does not have the capability {capability}")

    @pytest_asyncio.fixture
    async def broker(self, open_broker: OpenBroker) -> Broker:
        """A broker."""
        return open_broker()

    @pytest_asyncio.fixture
    async def other_broker(self, open_broker: OpenBroker, broker: Broker) -> Broker:
        """A second broker on the same store."""
        return open_broker()

    @pytest.fixture
    def open_transaction(self) -> object:
        """Begins a transaction on the broker's database; for a broker that joins some."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """A queue that nobody has used."""
        return f"queue-{uuid4().hex[:12]}"

    @pytest_asyncio.fixture
    async def start_consumer(
        self, open_broker: OpenBroker, queue: str
    ) -> AsyncIterator[StartConsumer]:
        """Starts consumers that are stopped when the test ends."""
        started: list[Consumer] = []

        async def start(broker: Broker, *queues: str, lease_seconds: float = 30.0) -> Consumer:
            names = queues or (queue,)
            consumer = broker.consumer(ConsumerOptions(worker_info(*names), names, lease_seconds))
            await consumer.start()
            started.append(consumer)
            return consumer

        yield start
        for consumer in started:
            await consumer.stop()


def worker_info(*queues: str) -> WorkerInfo:
    """A worker that there has not been before."""
    return WorkerInfo(f"worker-{uuid4().hex[:12]}", "host", 4711, queues, 10, time.time())


def message(queue: str, message_id: str = "", body: bytes = b"body", delay: float = 0) -> Outgoing:
    """A message; by default with an id of its own, for now."""
    due = time.time() + delay if delay else None
    return Outgoing(queue, message_id or uuid4().hex, body, due)


def numbered(queue: str, count: int) -> list[Outgoing]:
    """Messages with ids "0000", "0001", ..."""
    return [message(queue, f"{i:04}", b"%d" % i) for i in range(count)]


def ids(deliveries: list[Delivery]) -> list[str]:
    """Their ids, in order."""
    return [delivery.id for delivery in deliveries]


async def take_all(consumer: Consumer, count: int, timeout_seconds: float = 30) -> list[Delivery]:
    """Take until there are `count`, or the time is over."""
    taken: list[Delivery] = []
    deadline = time.monotonic() + timeout_seconds
    while len(taken) < count and time.monotonic() < deadline:
        taken += await consumer.take(min(count - len(taken), 500), 0.5)
    return taken


async def nothing_comes(consumer: Consumer, seconds: float = 0.15) -> bool:
    """Whether a take of this length gets nothing."""
    return await consumer.take(10, seconds) == []


async def becomes(condition: Callable[[], Awaitable[bool]], timeout_seconds: float = 10) -> bool:
    """Whether the condition holds before the time is over; looked at every 20 ms."""
    deadline = time.monotonic() + timeout_seconds
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
