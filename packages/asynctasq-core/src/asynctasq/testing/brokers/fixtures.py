"""The base of every part of the suite: brokers, consumers, messages, conditions."""

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
"""Opens a new broker on the store that all brokers of one test share."""


class StartConsumer(Protocol):
    """Starts a consumer for a new worker, by default on the test's queue."""

    async def __call__(
        self, broker: Broker, *queues: str, lease_seconds: float = 30.0
    ) -> Consumer: ...


@pytest.mark.asyncio
class BrokerFixtures:
    """Fixtures of `BrokerSuite`, which see. The subclass defines `open_broker`.

    Attributes:
        needs: The capability that a part's tests need, set in the part's own class.
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
        # The suite inherits from all of its parts, so look up the need in the class that defines
        # the test.
        name = request.function.__name__
        part = next(owner for owner in type(self).__mro__ if name in vars(owner))
        if capability := vars(part).get("needs"):
            self.need(capability)

    def need(self, capability: str) -> None:
        """Skip tests of what the broker cannot do."""
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
        """Begins a transaction on the broker's database, for brokers that can join one."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """The name of an unused queue."""
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
    """A new worker."""
    return WorkerInfo(f"worker-{uuid4().hex[:12]}", "host", 4711, queues, 10, time.time())


def message(queue: str, message_id: str = "", body: bytes = b"body", delay: float = 0) -> Outgoing:
    """A message, by default with a new id and due now."""
    due = time.time() + delay if delay else None
    return Outgoing(queue, message_id or uuid4().hex, body, due)


def numbered(queue: str, count: int) -> list[Outgoing]:
    """Messages with ids "0000", "0001", ..."""
    return [message(queue, f"{i:04}", b"%d" % i) for i in range(count)]


def ids(deliveries: list[Delivery]) -> list[str]:
    """Their ids, in order."""
    return [delivery.id for delivery in deliveries]


async def take_all(consumer: Consumer, count: int, timeout_seconds: float = 30) -> list[Delivery]:
    """Take until there are `count` messages or the time is up."""
    taken: list[Delivery] = []
    deadline = time.monotonic() + timeout_seconds
    while len(taken) < count and time.monotonic() < deadline:
        taken += await consumer.take(min(count - len(taken), 500), 0.5)
    return taken


async def nothing_comes(consumer: Consumer, seconds: float = 0.15) -> bool:
    """Whether a take of this length returns nothing."""
    return await consumer.take(10, seconds) == []


async def becomes(condition: Callable[[], Awaitable[bool]], timeout_seconds: float = 10) -> bool:
    """Whether the condition comes true before the time is up; checked every 20 ms."""
    deadline = time.monotonic() + timeout_seconds
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
