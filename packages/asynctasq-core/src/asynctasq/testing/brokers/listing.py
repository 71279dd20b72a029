"""Which messages a queue holds, page by page."""

from __future__ import annotations

import asyncio
import time

import pytest

from asynctasq.brokers import (
    Action,
    Broker,
    HeldMessage,
    HeldState,
    LimitKey,
    Listing,
    Outcome,
    Outgoing,
    Policy,
    RateKey,
)

from .fixtures import BrokerFixtures, StartConsumer, becomes, message, numbered, take_all


async def read_all(
    broker: Listing, queue: str, state: HeldState, limit: int = 100
) -> list[HeldMessage]:
    """Every page, one after the other."""
    messages: list[HeldMessage] = []
    after = None
    while True:
        page = await broker.held(queue, state, limit=limit, after=after)
        assert len(page.messages) <= limit
        messages += page.messages
        if (after := page.after) is None:
            return messages


class ListingTests(BrokerFixtures):
    """A listing shows every message once, and nothing else."""

    needs = "lists"

    @pytest.fixture
    def listing(self, other_broker: Broker) -> Listing:
        """A second broker, which does the listing."""
        self.need("lists")
        assert isinstance(other_broker, Listing)
        return other_broker

    async def test_a_listed_message_is_as_it_was_put(
        self, broker: Broker, listing: Listing, queue: str, start_consumer: StartConsumer
    ) -> None:
        consumer = await start_consumer(broker)
        assert await read_all(listing, queue, "waiting") == []
        await broker.put([message(queue, "a", b"\0body")])
        waiting = HeldMessage(queue, "a", b"\0body", "waiting")
        assert await read_all(listing, queue, "waiting") == [waiting]
        assert await listing.find_held(queue, ["a", "b"]) == [waiting]
        [delivery] = await take_all(consumer, 1)
        [running] = await read_all(listing, queue, "running")
        assert (running.id, running.body, running.deliveries) == ("a", b"\0body", 1)
        assert running.worker in {worker.id for worker in await broker.workers()}
        assert await listing.find_held(queue, ["a"]) == [running]
        due = time.time() + 60
        await consumer.settle([Outcome(delivery, Action.RETRY, body=b"again", delay=60)])
        [delayed] = await read_all(listing, queue, "delayed")
        assert (delayed.id, delayed.body, delayed.state) == ("a", b"again", "delayed")
        assert delayed.due is not None
        assert abs(delayed.due - due) < 30
        assert await listing.find_held(queue, ["a"]) == [delayed]
        assert await read_all(listing, queue, "waiting") == []
        assert await read_all(listing, queue, "running") == []

    async def test_dead_and_unknown_messages_are_not_listed(
        self, broker: Broker, listing: Listing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 2))
        consumer = await start_consumer(broker)
        deliveries = await take_all(consumer, 2)
        await consumer.settle([Outcome(deliveries[0], Action.DEAD), Outcome(deliveries[1])])
        for state in ("waiting", "running", "delayed"):
            assert await read_all(listing, queue, state) == []
        assert await listing.find_held(queue, ["0000", "0001", "unknown"]) == []
        assert await read_all(listing, f"{queue}-unknown", "waiting") == []
        assert await listing.find_held(f"{queue}-unknown", ["0000"]) == []

    async def test_waiting_messages_come_in_the_order_in_which_they_are_taken(
        self, broker: Broker, listing: Listing, queue: str
    ) -> None:
        await broker.put(numbered(queue, 25))
        listed = await read_all(listing, queue, "waiting", limit=10)
        assert [m.id for m in listed] == [f"{i:04}" for i in range(25)]

    async def test_delayed_messages_come_by_the_time_at_which_they_are_due(
        self, broker: Broker, listing: Listing, queue: str
    ) -> None:
        due = round(time.time()) + 100.0
        # Many are due at the same time, as after one dispatch of many.
        messages = [Outgoing(queue, f"{i:04}", b"body", due + i % 3) for i in range(90)]
        await broker.put(messages)
        listed = await read_all(listing, queue, "delayed", limit=7)
        assert [m.due for m in listed] == [due] * 30 + [due + 1] * 30 + [due + 2] * 30
        assert sorted(m.id for m in listed) == [m.id for m in messages]

    async def test_a_page_begins_after_a_delayed_message_that_has_gone(
        self, broker: Broker, listing: Listing, queue: str
    ) -> None:
        due = round(time.time()) + 100.0
        await broker.put([Outgoing(queue, f"{i:04}", b"body", due) for i in range(30)])
        first = await listing.held(queue, "delayed", limit=10)
        for one in first.messages[-3:]:
            await broker.cancel(queue, one.id, None, 0)
        seen = {m.id for m in first.messages}
        after = first.after
        while after is not None:
            page = await listing.held(queue, "delayed", limit=10, after=after)
            assert seen.isdisjoint(m.id for m in page.messages)
            seen |= {m.id for m in page.messages}
            after = page.after
        assert len(seen) == 30

    async def test_pages_hold_every_message_that_stays_once(
        self, broker: Broker, listing: Listing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 60))
        consumer = await start_consumer(broker)
        [one, *others] = await take_all(consumer, 40)
        first = await listing.held(queue, "waiting", limit=5)
        running = await listing.held(queue, "running", limit=5)
        await consumer.settle([Outcome(delivery) for delivery in others[:10]])
        await broker.put([message(queue, f"new-{i}") for i in range(5)])
        await take_all(consumer, 3)
        await asyncio.to_thread(consumer.renew, [one, *others[10:]])
        waiting = {m.id for m in first.messages}
        after = first.after
        while after is not None:
            page = await listing.held(queue, "waiting", limit=5, after=after)
            assert waiting.isdisjoint(m.id for m in page.messages)
            waiting |= {m.id for m in page.messages}
            after = page.after
        assert waiting >= {f"{i:04}" for i in range(43, 60)} | {f"new-{i}" for i in range(5)}
        ran = [m.id for m in running.messages]
        after = running.after
        while after is not None:
            page = await listing.held(queue, "running", limit=5, after=after)
            ran += [m.id for m in page.messages]
            after = page.after
        stayed = {one.id} | {delivery.id for delivery in others[10:]}
        assert stayed <= set(ran)
        assert all(ran.count(each) == 1 for each in stayed)

    async def test_what_was_given_back_or_is_due_is_listed_as_waiting(
        self, broker: Broker, listing: Listing, queue: str, start_consumer: StartConsumer
    ) -> None:
        await broker.put(numbered(queue, 3))
        consumer = await start_consumer(broker)
        given_back, running, retried = await take_all(consumer, 3)
        await consumer.settle([
            Outcome(given_back, Action.RELEASE),
            Outcome(retried, Action.RETRY, delay=0.05),
        ])  # fmt: skip
        await broker.put([message(queue, "new")])

        async def both_wait() -> bool:
            return len(await read_all(listing, queue, "waiting", limit=1)) == 3

        assert await becomes(both_wait)
        listed = await read_all(listing, queue, "waiting", limit=1)
        assert {m.id for m in listed} == {given_back.id, retried.id, "new"}
        assert {m.id for m in await read_all(listing, queue, "running")} == {running.id}

    async def test_large_messages_are_listed_too(
        self, broker: Broker, listing: Listing, queue: str
    ) -> None:
        await broker.put([message(queue, f"{i}", b"x" * 700_000) for i in range(5)])
        listed = await read_all(listing, queue, "waiting")
        assert [m.id for m in listed] == list("01234")
        assert {len(m.body) for m in listed} == {700_000}

    @pytest.mark.parametrize("state", ["waiting", "delayed", "running"])
    @pytest.mark.parametrize(
        "after", ["", "?", "r", "rAA==", "nLQ==", "l'", "2 x 1", "p 1", "p a b c d", "[[]]", "\0"]
    )
    async def test_a_place_that_the_broker_did_not_give_is_refused(
        self, broker: Broker, listing: Listing, queue: str, state: HeldState, after: str
    ) -> None:
        await broker.put(numbered(queue, 2))
        try:
            page = await listing.held(queue, state, after=after)
        except ValueError:
            return
        assert {m.id for m in page.messages} <= {"0000", "0001"}

    async def test_messages_with_policies_are_listed_wherever_they_stand(
        self, broker: Broker, listing: Listing, queue: str, start_consumer: StartConsumer
    ) -> None:
        self.need("polices")
        limited = Policy(limit=LimitKey("limit", 1))
        rated = Policy(rate=RateKey("rate", 3600.0, 1))
        both = Policy(limit=LimitKey("limit", 1), rate=RateKey("other", 3600.0, 1))
        await broker.put(
            [Outgoing(queue, f"limited-{i}", b"l", policy=limited) for i in range(9)]
            + [Outgoing(queue, f"rated-{i}", b"r", policy=rated) for i in range(9)]
            + [Outgoing(queue, f"both-{i}", b"b", policy=both) for i in range(9)]
            + [Outgoing(queue, "urgent", b"u", priority=5), message(queue, "plain")]
            + [Outgoing(queue, "later", b"d", time.time() + 60, policy=limited)]
        )
        ids = {f"{name}-{i}" for name in ("limited", "rated", "both") for i in range(9)}
        listed = await read_all(listing, queue, "waiting", limit=4)
        assert sorted(m.id for m in listed) == sorted({*ids, "urgent", "plain"})
        consumer = await start_consumer(broker)
        taken = {delivery.id for delivery in await take_all(consumer, 4)}
        listed = await read_all(listing, queue, "waiting", limit=4)
        assert sorted(m.id for m in listed) == sorted({*ids, "urgent", "plain"} - taken)
        running = await read_all(listing, queue, "running", limit=1)
        assert {m.id for m in running} == taken
        assert {m.deliveries for m in running} == {1}
        [later] = await read_all(listing, queue, "delayed")
        assert (later.id, later.body) == ("later", b"d")
        found = await listing.find_held(queue, [*ids, "urgent", "plain", "later"])
        assert {m.id for m in found if m.state == "running"} == taken
        assert [m.id for m in found if m.state == "delayed"] == ["later"]
        assert {m.body for m in found if m.id.startswith("both")} == {b"b"}
