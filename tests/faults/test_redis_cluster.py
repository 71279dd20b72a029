"""The Redis broker on a cluster: every promise, and what happens when slots and masters move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest_asyncio
from asynctasq import RedisConfig
from asynctasq.brokers import (
    Broker,
    Consumer,
    ConsumerOptions,
    Delivery,
    Outcome,
    Outgoing,
    WorkerInfo,
)
from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.errors import BrokerUnavailable
from asynctasq.testing import BrokerSuite, OpenBroker


class TestRedisClusterBroker(BrokerSuite):
    due_goes_first = False
    lists = True
    coordinates = True
    polices = True
    remembers = True
    pauses = True
    lease_seconds = 2.0  # the first renewal connects to every node

    @pytest_asyncio.fixture
    async def open_broker(self, cluster: Any) -> AsyncIterator[OpenBroker]:
        prefix = f"test-{uuid4().hex}"
        brokers: list[Broker] = []

        def open_one() -> Broker:
            # A client that begins asks the cluster for its shape, which takes a busy machine long.
            config = RedisConfig(url=cluster[0].url, cluster=True, key_prefix=prefix, timeout=30.0)
            brokers.append(RedisBroker(config))
            return brokers[-1]

        yield open_one
        for broker in brokers:
            await broker.close()


async def test_a_consumer_of_several_slots_hands_out_every_message_once(cluster: Any) -> None:
    queues = tuple(f"queue-{uuid4().hex[:8]}" for _ in range(4))
    broker = RedisBroker(RedisConfig(url=cluster[0].url, cluster=True))
    info = WorkerInfo(uuid4().hex, "host", 1, queues, 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, queues))
    await consumer.start()

    async def send() -> None:
        for i in range(400):
            await broker.put([Outgoing(queues[i % 4], str(i), b"")])

    sending = asyncio.create_task(send())
    taken: list[str] = []
    held: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(taken) < 400:
            found = await consumer.take(1 + len(taken) % 3, 1)
            taken += [delivery.id for delivery in found]
            held += found
            if len(held) > 20:
                await consumer.settle([Outcome(delivery) for delivery in held])
                held = []
    await sending
    assert sorted(taken, key=int) == [str(i) for i in range(400)]
    await consumer.settle([Outcome(delivery) for delivery in held])
    assert await consumer.idle()
    await consumer.stop()
    await broker.close()


class Traffic:
    """A sender and a worker of one queue, who go on whatever happens.

    Attributes:
        sent: Ids that were accepted.
        done: Ids whose messages ran.
    """

    def __init__(self, url: str) -> None:
        self.queue = f"queue-{uuid4().hex[:8]}"
        self.sent: set[str] = set()
        self.done: set[str] = set()
        self._broker = RedisBroker(RedisConfig(url=url, cluster=True, timeout=15.0))
        info = WorkerInfo(uuid4().hex, "host", 1, (self.queue,), 10, time.time())
        queues = (self.queue, f"{self.queue}-other")
        self._consumer: Consumer = self._broker.consumer(ConsumerOptions(info, queues, 5.0))
        self._tasks: list[asyncio.Task[None]] = []
        self._sending = True

    @property
    def stream(self) -> str:
        """Key of the queue's messages."""
        return f"asynctasq:{{{self.queue}}}:stream"

    async def start(self) -> None:
        await self._consumer.start()
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._work())]

    async def _send(self) -> None:
        while self._sending:
            message = Outgoing(self.queue, uuid4().hex, b"body")
            await self._broker.put([message])
            self.sent.add(message.id)

    async def _work(self) -> None:
        while True:
            try:
                taken = await self._consumer.take(10, 0.2)
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
                continue
            await self._settle([Outcome(delivery) for delivery in taken])
            self.done |= {delivery.id for delivery in taken}

    async def _settle(self, outcomes: list[Outcome]) -> None:
        while True:
            try:
                await self._consumer.settle(outcomes)
                return
            except BrokerUnavailable:
                await asyncio.sleep(0.05)

    async def go_on(self) -> None:
        """Wait until messages sent from now on are done."""
        number = len(self.done)
        async with asyncio.timeout(20):
            while len(self.done) < number + 50:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop sending, and work until nothing is left."""
        self._sending = False
        await self._tasks[0]
        async with asyncio.timeout(20):
            while not await self._consumer.idle():
                await asyncio.sleep(0.05)
        self._tasks[1].cancel()
        await asyncio.wait(self._tasks)
        await self._consumer.stop()
        await self._broker.close()


def call(node: Any, *command: object) -> Any:
    with node.client() as client:
        return client.execute_command(*command)


def slot_owner(nodes: list[Any], slot: int) -> Any:
    for first, last, *owners in call(nodes[0], "CLUSTER", "SLOTS"):
        if int(first) <= slot <= int(last):
            [owner] = [node for node in nodes if node.port == int(owners[0][1])]
            return owner
    raise AssertionError(f"nobody owns slot {slot}")


def is_master(node: Any) -> bool:
    return bool(call(node, "ROLE")[0] == "master")


async def test_nothing_is_lost_while_a_queue_moves_to_another_node(cluster: Any) -> None:
    traffic = Traffic(cluster[0].url)
    await traffic.start()
    await traffic.go_on()
    slot = int(call(cluster[0], "CLUSTER", "KEYSLOT", traffic.stream))
    source = slot_owner(cluster, slot)
    target = next(node for node in cluster if is_master(node) and node is not source)
    names = {node: call(node, "CLUSTER", "MYID") for node in (source, target)}
    call(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    while keys := call(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
        call(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        await asyncio.sleep(0.1)
    for node in (target, source):
        call(node, "CLUSTER", "SETSLOT", slot, "NODE", names[target])
    await traffic.go_on()
    await traffic.stop()
    assert traffic.done == traffic.sent


async def test_nothing_is_lost_when_a_replica_takes_over(cluster: Any) -> None:
    traffic = Traffic(cluster[0].url)
    await traffic.start()
    await traffic.go_on()
    slot = int(call(cluster[0], "CLUSTER", "KEYSLOT", traffic.stream))
    master = slot_owner(cluster, slot)
    [replica] = [
        node
        for node in cluster
        if (role := call(node, "ROLE"))[0] == "slave" and int(role[2]) == master.port
    ]
    call(replica, "CLUSTER", "FAILOVER")
    async with asyncio.timeout(20):
        while not is_master(replica):
            await asyncio.sleep(0.02)
    await traffic.go_on()
    await traffic.stop()
    assert traffic.done == traffic.sent


async def test_a_dead_master_is_replaced_and_work_goes_on(cluster: Any) -> None:
    traffic = Traffic(cluster[0].url)
    await traffic.start()
    await traffic.go_on()
    slot = int(call(cluster[0], "CLUSTER", "KEYSLOT", traffic.stream))
    master = slot_owner(cluster, slot)
    with master.client() as client:
        while client.wait(1, 100) < 1:
            await asyncio.sleep(0.05)
    master.kill()
    try:
        await traffic.go_on()
    finally:
        master.start()
    await traffic.stop()
    # Redis replicates asynchronously: what it acknowledged in the last instant may be gone.
    assert len(traffic.sent - traffic.done) <= 5
