"""Results: kept with the outcome, awaited, forgotten."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from asynctasq.brokers import Action, Broker, Outcome

from .fixtures import BrokerFixtures, StartConsumer, becomes, message, take_all


class ResultsTests(BrokerFixtures):
    """A result is available as soon as its outcome is settled, to everyone who waits."""

    @pytest.mark.parametrize("action", [Action.DONE, Action.DEAD])
    async def test_a_result_is_kept_with_its_outcome(
        self,
        broker: Broker,
        other_broker: Broker,
        queue: str,
        start_consumer: StartConsumer,
        action: Action,
    ) -> None:
        await self._finish(broker, queue, start_consumer, action, b"\x00result", 60)
        assert await other_broker.result(queue, "a", 5) == b"\x00result"
        assert await other_broker.result(queue, "a", 0) == b"\x00result"

    async def test_an_empty_result_is_a_result(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._finish(broker, queue, start_consumer, Action.DONE, b"", 60)
        assert await broker.result(queue, "a", 0) == b""

    async def test_an_outcome_without_a_result_keeps_none(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._finish(broker, queue, start_consumer, Action.DONE, None, 60)
        assert await broker.result(queue, "a", 0) is None

    async def test_waiting_for_a_result_ends_at_its_timeout(
        self, broker: Broker, queue: str
    ) -> None:
        started = time.monotonic()
        assert await broker.result(queue, "a", 0.3) is None
        assert 0.25 <= time.monotonic() - started < 2

    async def test_a_result_wakes_all_who_wait_for_it(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        waiting = [
            asyncio.ensure_future(each.result(queue, "a", 30))
            for each in (broker, broker, other_broker, other_broker)
        ]
        elsewhere = asyncio.ensure_future(broker.result(queue, "b", 0.5))
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        await self._finish(broker, queue, start_consumer, Action.DONE, b"result", 60)
        async with asyncio.timeout(1):
            assert await asyncio.gather(*waiting) == [b"result"] * 4
        assert await elsewhere is None

    async def test_a_cancelled_wait_leaves_the_others_waiting(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        cancelled, waiting = (
            asyncio.ensure_future(broker.result(queue, "a", 30)) for _ in range(2)
        )
        await asyncio.wait([cancelled, waiting], timeout=0.05)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await self._finish(broker, queue, start_consumer, Action.DONE, b"result", 60)
        async with asyncio.timeout(1):
            assert await waiting == b"result"

    async def test_waits_cancelled_at_any_moment_leave_no_error_behind(
        self, broker: Broker, queue: str
    ) -> None:
        errors: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        await broker.state(queue, "a")
        for i in range(20):
            waiting = asyncio.ensure_future(broker.result(f"{queue}-{i}", "a", 30))
            await asyncio.wait([waiting], timeout=(i + 1) / 2000)
            waiting.cancel()
            await asyncio.wait([waiting])
            for _ in range(10):  # while which the broker goes on with what it had begun
                await broker.state(queue, "a")
        gc.collect()  # which makes asyncio tell of what failed unseen
        await asyncio.sleep(0)
        assert errors == []

    async def test_many_results_wake_many_waiters(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        names = [f"{i:03}" for i in range(100)]
        waiting = [asyncio.ensure_future(other_broker.result(queue, i, 30)) for i in names]
        await broker.put([message(queue, i) for i in names])
        consumer = await start_consumer(broker)
        for delivery in await take_all(consumer, 100):
            result = delivery.id.encode()
            await consumer.settle([Outcome(delivery, result=result, result_ttl=60)])
        async with asyncio.timeout(5):
            assert await asyncio.gather(*waiting) == [i.encode() for i in names]

    async def test_a_result_is_forgotten_after_its_time_to_live(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._finish(broker, queue, start_consumer, Action.DONE, b"result", 1)
        assert await broker.result(queue, "a", 0) == b"result"

        async def forgotten() -> bool:
            return await broker.result(queue, "a", 0) is None

        assert await becomes(forgotten, 3)

    async def test_a_later_result_of_the_same_id_replaces_the_earlier(
        self, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await self._finish(broker, queue, start_consumer, Action.DONE, b"first", 60)
        await self._finish(broker, queue, start_consumer, Action.DONE, b"second", 60)
        assert await broker.result(queue, "a", 0) == b"second"

    async def _finish(
        self,
        broker: Broker,
        queue: str,
        start_consumer: StartConsumer,
        action: Action,
        result: bytes | None,
        ttl: float,
    ) -> None:
        """Put, take and settle message "a"."""
        await broker.put([message(queue, "a")])
        consumer = await start_consumer(broker)
        [delivery] = await take_all(consumer, 1)
        outcome = Outcome(delivery, action, result=result, result_ttl=ttl)
        assert await consumer.settle([outcome]) == []
