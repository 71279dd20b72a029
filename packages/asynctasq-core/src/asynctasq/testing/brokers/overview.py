"""What a broker reports: states, counts, workers, findings; and closing it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from asynctasq.brokers import Action, Broker, ConsumerOptions, Outcome, QueueStats

from .fixtures import (
    BrokerFixtures,
    OpenBroker,
    StartConsumer,
    becomes,
    ids,
    message,
    numbered,
    take_all,
    worker_info,
)


class OverviewTests(BrokerFixtures):
    """What is reported is true."""

    async def test_the_state_of_a_message_follows_it(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        assert await other_broker.state(queue, "a") is None
        await broker.put([message(queue, "a")])
        assert await other_broker.state(queue, "a") == "waiting"
        [delivery] = await take_all(consumer, 1)
        assert await other_broker.state(queue, "a") == "running"
        await consumer.settle([Outcome(delivery, Action.RETRY, delay=0.3)])
        assert await other_broker.state(queue, "a") == "delayed"
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery, Action.DEAD)])
        assert await other_broker.state(queue, "a") == "dead"
        await other_broker.retry_dead(queue, [("a", b"")])
        assert await other_broker.state(queue, "a") == "waiting"
        [delivery] = await take_all(consumer, 1)
        await consumer.settle([Outcome(delivery)])
        assert await other_broker.state(queue, "a") is None

    async def test_the_stats_count_every_state_of_every_queue(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        one, two = f"{queue}-1", f"{queue}-2"
        await broker.put(numbered(one, 6))
        consumer = await start_consumer(broker, one, two)
        taken = await take_all(consumer, 3)
        await consumer.settle([Outcome(taken[0], Action.DEAD)])
        await broker.put([message(one, "delayed", delay=60), message(two, "other")])
        mine = [stats for stats in await other_broker.stats() if stats.name in (one, two)]
        assert mine == [
            QueueStats(one, waiting=3, running=2, delayed=1, dead=1),
            QueueStats(two, waiting=1, running=0, delayed=0, dead=0),
        ]

    async def test_a_worker_is_shown_from_start_to_stop(
        self, broker: Broker, other_broker: Broker, queue: str
    ) -> None:
        info = worker_info(queue, "another")
        consumer = broker.consumer(ConsumerOptions(info, (queue, "another")))
        assert info.id not in {worker.id for worker in await other_broker.workers()}
        await consumer.start()
        await broker.put(numbered(queue, 2))
        await take_all(consumer, 2)
        [shown] = [w for w in await other_broker.workers() if w.id == info.id]
        assert abs(shown.started_at - info.started_at) < 0.01
        assert replace(shown, started_at=info.started_at) == replace(info, running=2)
        await consumer.stop()
        assert info.id not in {worker.id for worker in await other_broker.workers()}

    async def test_a_worker_without_a_sign_of_life_is_shown_no_longer_than_its_lease(
        self, broker: Broker, other_broker: Broker, queue: str
    ) -> None:
        info = worker_info(queue)
        consumer = broker.consumer(ConsumerOptions(info, (queue,), self.lease_seconds))
        await consumer.start()

        async def shown() -> bool:
            return info.id in {worker.id for worker in await other_broker.workers()}

        async def gone() -> bool:
            return not await shown()

        assert await shown()
        assert await becomes(gone, self.lease_seconds + 2)
        await asyncio.to_thread(consumer.renew, [])
        assert await shown()
        await consumer.stop()

    async def test_queues_are_idle_when_nothing_waits_is_delayed_or_runs(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer, other = await start_consumer(broker), await start_consumer(other_broker)
        assert await consumer.idle()
        await broker.put([message(queue, "a")])
        assert not await consumer.idle()
        [delivery] = await take_all(other, 1)
        assert not await consumer.idle()
        await other.settle([Outcome(delivery, Action.RETRY, delay=0.3)])
        assert not await consumer.idle()
        [delivery] = await take_all(other, 1)
        await other.settle([Outcome(delivery, Action.DEAD)])
        assert await consumer.idle()
        await broker.put([message(f"{queue}-elsewhere")])
        assert await consumer.idle()

    async def test_a_check_finds_no_error_in_a_working_broker(self, broker: Broker) -> None:
        findings = await broker.check()
        assert findings
        assert [finding for finding in findings if finding.level == "error"] == []
        assert all(finding.subject and finding.text for finding in findings)

    async def test_a_broker_describes_itself_in_one_line(self, broker: Broker) -> None:
        assert broker.describe()
        assert "\n" not in broker.describe()

    async def test_a_closed_broker_can_be_used_again(
        self, broker: Broker, other_broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put([message(queue, "a")])
        await broker.close()
        await broker.put([message(queue, "b")])
        assert ids(await take_all(await start_consumer(other_broker), 2)) == ["a", "b"]

    async def test_closing_twice_or_unused_is_harmless(
        self, broker: Broker, open_broker: OpenBroker, queue: str
    ) -> None:
        await broker.put([message(queue)])
        for _ in range(2):
            await broker.close()
        await open_broker().close()

    async def test_messages_outlive_the_brokers_that_brought_them(
        self, open_broker: OpenBroker, queue: str, start_consumer: StartConsumer
    ) -> None:
        sender = open_broker()
        await sender.put(numbered(queue, 10))
        await sender.close()
        taken = await take_all(await start_consumer(open_broker()), 10)
        assert ids(taken) == [f"{i:04}" for i in range(10)]
