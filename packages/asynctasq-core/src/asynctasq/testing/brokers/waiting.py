"""Waiting for messages: timeouts, wake-ups, cancellation."""

from __future__ import annotations

import asyncio
import time

from asynctasq.brokers import Broker, Delivery

from .fixtures import BrokerFixtures, StartConsumer, ids, message, nothing_comes, take_all


class WaitingTests(BrokerFixtures):
    """A take waits no longer than necessary, and loses nothing."""

    async def test_a_take_of_nothing_ends_at_its_timeout(
        self, broker: Broker, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        started = time.monotonic()
        assert await consumer.take(10, 0.3) == []
        assert 0.25 <= time.monotonic() - started < 2

    async def test_a_waiting_take_is_woken_by_a_put(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        waiting = await self._waiting_take(broker, start_consumer)
        await broker.put([message(queue, "a")])
        async with asyncio.timeout(1):
            assert ids(await waiting) == ["a"]

    async def test_a_waiting_take_is_woken_by_a_put_of_another_broker(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        waiting = await self._waiting_take(broker, start_consumer)
        await other_broker.put([message(queue, "a")])
        async with asyncio.timeout(1):
            assert ids(await waiting) == ["a"]

    async def test_a_waiting_take_is_woken_by_its_last_queue(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        names = [f"{queue}-{i}" for i in range(5)]
        waiting = await self._waiting_take(broker, start_consumer, *names)
        await other_broker.put([message(names[-1], "a")])
        async with asyncio.timeout(1):
            assert ids(await waiting) == ["a"]

    async def test_takes_are_woken_again_and_again(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        async with asyncio.timeout(10):
            for i in range(10):
                waiting = asyncio.ensure_future(consumer.take(10, 30))
                await other_broker.put([message(queue, str(i))])
                assert ids(await waiting) == [str(i)]

    async def test_a_cancelled_take_takes_nothing_with_it(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        waiting = asyncio.ensure_future(consumer.take(10, 30))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await broker.put([message(queue, "a")])
        assert ids(await take_all(consumer, 1)) == ["a"]

    async def test_takes_cancelled_at_any_moment_lose_no_message(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker, lease_seconds=self.lease_seconds)
        seen: set[str] = set()
        for i in range(30):
            taking = asyncio.ensure_future(consumer.take(10, 30))
            await other_broker.put([message(queue, str(i))])
            for _ in range(i % 10):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
            if not taking.cancelled():
                seen.update(ids(taking.result()))
        deadline = time.monotonic() + 10
        while len(seen) < 30 and time.monotonic() < deadline:
            seen.update(ids(await consumer.take(100, 0.5)))
        assert seen == {str(i) for i in range(30)}

    async def test_what_a_cancelled_take_has_leased_is_given_back_by_stop(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        for i in range(10):
            taking = asyncio.ensure_future(consumer.take(10, 30))
            await other_broker.put([message(queue, str(i))])
            for _ in range(i):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
        await consumer.stop()
        taken = await take_all(await start_consumer(other_broker), 10)
        assert sorted(ids(taken)) == sorted(str(i) for i in range(10))

    async def test_nothing_comes_twice_after_a_wake_up(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        waiting = await self._waiting_take(broker, start_consumer)
        await broker.put([message(queue, "a")])
        await waiting
        assert await nothing_comes(await start_consumer(broker))

    async def _waiting_take(
        self, broker: Broker, start_consumer: StartConsumer, *queues: str
    ) -> asyncio.Task[list[Delivery]]:
        """A take that has found nothing yet and is waiting."""
        consumer = await start_consumer(broker, *queues)
        taking = asyncio.ensure_future(consumer.take(10, 30))
        done, _ = await asyncio.wait([taking], timeout=0.1)
        assert not done
        return taking
