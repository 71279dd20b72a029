"""Small named values of a queue."""

from __future__ import annotations

import asyncio

import pytest

from asynctasq.brokers import (
    Broker,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    Remembering,
    UniqueKey,
)

from .fixtures import (
    BrokerFixtures,
    StartConsumer,
    becomes,
    ids,
    message,
    nothing_comes,
    numbered,
    take_all,
)


class RememberingTests(BrokerFixtures):
    """Values are kept by queue, kind and name; replacing one is a compare-and-set."""

    @pytest.fixture
    def keeper(self, broker: Broker) -> Remembering:
        """A broker that remembers."""
        return self._remembering(broker)

    @pytest.fixture
    def other_keeper(self, other_broker: Broker) -> Remembering:
        """A second such broker on the same store."""
        return self._remembering(other_broker)

    def _remembering(self, broker: Broker) -> Remembering:
        self.need("remembers")
        assert isinstance(broker, Remembering)
        return broker

    async def test_a_value_is_what_was_set_last_and_gone_when_deleted(
        self, keeper: Remembering, other_keeper: Remembering, queue: str
    ) -> None:
        assert await keeper.value(queue, "kind", "name") is None
        for value in (b"first", b"", b"\x00\xff"):
            await keeper.set_value(queue, "kind", "name", value)
            assert await other_keeper.value(queue, "kind", "name") == value
        for _ in range(2):
            await other_keeper.set_value(queue, "kind", "name", None)
            assert await keeper.value(queue, "kind", "name") is None

    async def test_values_are_apart_by_queue_kind_and_name(
        self, keeper: Remembering, queue: str
    ) -> None:
        await keeper.set_value(queue, "kind", "a", b"1")
        await keeper.set_value(queue, "kind", "ö {}:*", b"2")
        await keeper.set_value(queue, "other", "a", b"3")
        await keeper.set_value(f"{queue}-2", "kind", "a", b"4")
        assert dict(await keeper.values(queue, "kind")) == {"a": b"1", "ö {}:*": b"2"}
        assert dict(await keeper.values(queue, "other")) == {"a": b"3"}
        assert dict(await keeper.values(f"{queue}-2", "kind")) == {"a": b"4"}
        assert dict(await keeper.values(queue, "none")) == {}

    async def test_a_value_is_gone_when_its_time_is_over(
        self, keeper: Remembering, other_keeper: Remembering, queue: str
    ) -> None:
        await keeper.set_value(queue, "kind", "short", b"1", ttl_seconds=0.4)
        await keeper.set_value(queue, "kind", "long", b"2", ttl_seconds=60)
        await keeper.set_value(queue, "kind", "kept", b"3", ttl_seconds=0.4)
        await keeper.set_value(queue, "kind", "kept", b"3")
        assert await keeper.value(queue, "kind", "short") == b"1"

        async def over() -> bool:
            return await other_keeper.value(queue, "kind", "short") is None

        assert await becomes(over)
        assert dict(await keeper.values(queue, "kind")) == {"long": b"2", "kept": b"3"}

    async def test_a_value_is_replaced_only_if_it_is_the_expected_one(
        self, keeper: Remembering, other_keeper: Remembering, queue: str
    ) -> None:
        assert not await keeper.replace_value(queue, "kind", "a", b"1", expected=b"0")
        assert await keeper.replace_value(queue, "kind", "a", b"1", expected=None)
        assert not await other_keeper.replace_value(queue, "kind", "a", b"2", expected=None)
        assert not await other_keeper.replace_value(queue, "kind", "a", b"2", expected=b"")
        assert await keeper.value(queue, "kind", "a") == b"1"
        assert await other_keeper.replace_value(queue, "kind", "a", b"2", expected=b"1")
        assert await keeper.replace_value(queue, "kind", "a", None, expected=b"2")
        assert await other_keeper.value(queue, "kind", "a") is None

    async def test_messages_are_put_only_with_the_value_they_belong_to(
        self, keeper: Remembering, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        first, *rest = numbered(queue, 3)
        assert await keeper.replace_value(queue, "k", "a", b"1", expected=None, messages=[first])
        assert not await keeper.replace_value(queue, "k", "a", b"2", expected=None, messages=rest)
        consumer = await start_consumer(broker)
        assert ids(await take_all(consumer, 1)) == ["0000"]
        assert await broker.state(queue, "0001") is None
        waiting = asyncio.ensure_future(consumer.take(10, 20))
        assert await keeper.replace_value(queue, "k", "a", b"2", expected=b"1", messages=rest)
        async with asyncio.timeout(5):
            assert ids(await waiting)[0] == "0001"

    async def test_what_messages_put_with_a_value_ask_for_is_honoured(
        self, one: Remembering, broker: Broker, queue: str, start_consumer: StartConsumer
    ) -> None:
        self.need("polices")
        limited = Policy(unique=UniqueKey("unique"), limit=LimitKey("limit", 1))
        one_at_a_time = [
            Outgoing(queue, "a", b"", policy=limited),
            Outgoing(queue, "b", b"", policy=Policy(limit=LimitKey("limit", 1))),
            Outgoing(queue, "urgent", b"", priority=5),
            message(queue, "plain"),
        ]
        assert await one.replace_value(queue, "k", "n", b"1", expected=None, messages=one_at_a_time)
        consumer = await start_consumer(broker)
        taken = await take_all(consumer, 3)
        assert ids(taken)[0] == "urgent"
        assert {"plain", "urgent"} < set(ids(taken))
        assert await nothing_comes(consumer)
        [first] = [d for d in taken if d.id in ("a", "b")]
        await consumer.settle([Outcome(first)])
        [second] = await take_all(consumer, 1)
        assert {first.id, second.id} == {"a", "b"}

    async def test_of_many_who_replace_at_once_one_does(
        self, keeper: Remembering, other_keeper: Remembering, broker: Broker, queue: str
    ) -> None:
        sent = numbered(queue, 20)
        answers = await asyncio.gather(
            *(
                (keeper, other_keeper)[i % 2].replace_value(
                    queue, "kind", "a", b"%d" % i, expected=None, messages=[sent[i]]
                )
                for i in range(20)
            )
        )
        assert answers.count(True) == 1
        winner = answers.index(True)
        assert await keeper.value(queue, "kind", "a") == b"%d" % winner
        states = [await broker.state(queue, m.id) for m in sent]
        assert [i for i, state in enumerate(states) if state] == [winner]

    async def test_whoever_waits_for_a_change_of_a_value_is_woken(
        self, keeper: Remembering, other_keeper: Remembering, queue: str
    ) -> None:
        known: bytes | None = None
        for value in (b"first", b"", None):
            waiting = [
                asyncio.ensure_future(each.changed_value(queue, "kind", "name", known, 30))
                for each in (keeper, keeper, other_keeper)
            ]
            elsewhere = asyncio.ensure_future(keeper.changed_value(queue, "kind", "a", None, 0.2))
            done, _ = await asyncio.wait(waiting, timeout=0.05)
            assert not done
            if value == b"first":
                assert await keeper.replace_value(
                    queue, "kind", "name", value, expected=None, wakes=True
                )
            else:
                await keeper.set_value(queue, "kind", "name", value, wakes=True)
            async with asyncio.timeout(5):
                assert await asyncio.gather(*waiting) == [value] * 3
            assert await elsewhere is None
            known = value

    async def test_a_value_that_is_another_already_is_not_waited_for(
        self, keeper: Remembering, queue: str
    ) -> None:
        await keeper.set_value(queue, "kind", "name", b"1", ttl_seconds=60)
        async with asyncio.timeout(10):
            assert await keeper.changed_value(queue, "kind", "name", b"0", 30) == b"1"
            assert await keeper.changed_value(queue, "kind", "name", None, 30) == b"1"
            assert await keeper.changed_value(queue, "kind", "none", b"0", 30) is None
            assert await keeper.changed_value(queue, "kind", "name", b"1", 0) == b"1"
            assert await keeper.changed_value(queue, "kind", "name", b"1", 0.05) == b"1"

    async def test_all_values_of_a_kind_are_deleted_and_no_others(
        self, keeper: Remembering, other_keeper: Remembering, queue: str
    ) -> None:
        for i in range(30):
            await keeper.set_value(queue, "many", f"{i}", b"1", ttl_seconds=60 if i % 2 else None)
        await keeper.set_value(queue, "other", "a", b"2")
        await keeper.set_value(f"{queue}-2", "many", "a", b"3")
        for _ in range(2):
            await other_keeper.delete_values(queue, "many")
            assert dict(await keeper.values(queue, "many")) == {}
        assert await keeper.value(queue, "other", "a") == b"2"
        assert await keeper.value(f"{queue}-2", "many", "a") == b"3"

    async def test_values_stay_when_the_queue_is_purged(
        self, keeper: Remembering, broker: Broker, queue: str
    ) -> None:
        await broker.put(numbered(queue, 2))
        await keeper.set_value(queue, "kind", "a", b"1")
        await broker.purge(queue)
        assert await keeper.value(queue, "kind", "a") == b"1"
