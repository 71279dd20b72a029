"""From references to rows: order, duplicates, deleted rows, costs and hostile keys."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from asynctasq import InvalidReference, Ref, ReferenceUnavailable

from .application import ApplicationUnderTest, needs
from .sharing import assert_not_shared

#: How many references tests of many ask for; nearly all of the rows do not exist.
MANY = 5000

#: Keys that no row of the main model has; some could not even be its keys.
HOSTILE_KEYS: Sequence[Any] = (
    *(None, True, False, "", "Ada", "1; DROP TABLE users", "1 OR 1=1", "\0", "x" * 10_000),
    *(-1, 2**63, 2**64, -(2**70), 1.5, float("nan"), float("inf"), Decimal("NaN"), Decimal("0.1")),
    *(b"", b"\xff\0", (), (1,), (1, 2), (None, None), ("1", "2", "3")),
    *(uuid.UUID(int=1), datetime(2026, 1, 1)),
)


#: How often the event loop must turn at least while many rows are fetched.
LEAST_TURNS = 1


class _Unhashable:
    """An option that cannot be a key and equals nothing."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return False


#: What other packages may put into annotations.
OTHERS_OPTIONS: Sequence[Any] = ("text", 1, None, object(), _Unhashable(), len, dict, {"a": [1]})


class FetchingTests(ApplicationUnderTest):
    """`fetch_many`, called as a worker calls it."""

    async def test_rows_come_in_the_order_asked(self) -> None:
        rows = [await self.call(self.save, f"name {i}") for i in range(5)]
        refs = [await self.reference(rows[i]) for i in (3, 0, 4, 2, 1)]
        assert [row.name for row in await self.fetch(refs)] == [
            f"name {i}" for i in (3, 0, 4, 2, 1)
        ]

    async def test_a_row_has_the_class_that_was_referred_to(self) -> None:
        row = await self.call(self.save, "Ada")
        (found,) = await self.fetch([await self.reference(row)])
        assert type(found) is type(row)
        assert found is not row

    async def test_the_same_key_twice_brings_two_instances(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        one, other, third = await self.fetch([ref, ref, ref])
        assert one is not other
        assert other is not third
        self.set_name(one, "changed")
        assert (other.name, third.name) == ("Ada", "Ada")

    async def test_two_instances_of_one_row_share_nothing_that_can_change(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        one, other = await self.fetch([ref, ref])
        assert_not_shared(one, other, self.is_model)

    async def test_two_fetches_at_once_bring_two_instances(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        (one,), (other,) = await asyncio.gather(self.fetch([ref]), self.fetch([ref]))
        assert one is not other
        assert (one.name, other.name) == ("Ada", "Ada")

    async def test_a_row_that_is_gone_is_none_in_its_place(self) -> None:
        rows = [await self.call(self.save, f"name {i}") for i in range(3)]
        refs = [await self.reference(row) for row in rows]
        await self.call(self.delete, rows[1])
        first, gone, last = await self.fetch(refs)
        assert (first.name, gone, last.name) == ("name 0", None, "name 2")

    async def test_a_row_is_as_it_is_now(self) -> None:
        row = await self.call(self.save, "Ada")
        ref = await self.reference(row)
        await self.call(self.rename, row, "Grace")
        assert [found.name for found in await self.fetch([ref])] == ["Grace"]

    async def test_a_hundred_rows_cost_one_query(self) -> None:
        rows = [await self.call(self.save, f"name {i}") for i in range(100)]
        refs = [await self.reference(row) for row in rows]
        with self.statements() as seen:
            found = await self.fetch(refs)
        assert [row.name for row in found] == [f"name {i}" for i in range(100)]
        assert self.count(seen) == 1

    async def test_thousands_are_fetched_in_parts(self) -> None:
        row = await self.call(self.save, "Ada")
        ref = await self.reference(row)
        refs = [replace(ref, pk=self.other_key(ref.pk, 10**6 + i)) for i in range(MANY - 2)]
        await self._finds_ends([ref, *refs, ref])

    async def test_the_event_loop_goes_on_while_rows_are_fetched(self) -> None:
        row = await self.call(self.save, "Ada")
        ref = await self.reference(row)
        refs = [replace(ref, pk=self.other_key(ref.pk, 10**6 + i)) for i in range(MANY)]
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        await asyncio.sleep(0)
        before = turns
        await self.fetch(refs)
        turns -= before
        turning.cancel()
        assert turns >= LEAST_TURNS, "fetch_many blocks the event loop"

    async def test_options_of_others_are_passed_over(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"), OTHERS_OPTIONS)
        assert [row.name for row in await self.fetch([ref])] == ["Ada"]

    @needs("composite_keys")
    async def test_thousands_of_composite_keys_are_fetched_in_parts(self) -> None:
        ref = await self.reference(await self.call(self.save_composite, "Ada"))
        refs = [replace(ref, pk=self.other_key(ref.pk, 10**6 + i)) for i in range(MANY - 2)]
        await self._finds_ends([ref, *refs, ref])

    async def _finds_ends(self, refs: list[Ref]) -> None:
        with self.statements() as seen:
            first, *gone, last = await self.fetch(refs)
        assert (first.name, last.name) == ("Ada", "Ada")
        assert set(gone) == {None}
        assert 1 <= self.count(seen) <= len(refs) // 100
        assert self.knows_limits or self.count(seen) > 1, "databases limit the keys of a query"

    @needs("composite_keys")
    async def test_composite_keys_find_their_rows(self) -> None:
        rows = [await self.call(self.save_composite, f"name {i}") for i in range(3)]
        refs = [await self.reference(row) for row in reversed(rows)]
        assert [row.name for row in await self.fetch(refs)] == ["name 2", "name 1", "name 0"]

    @needs("composite_keys")
    @pytest.mark.parametrize("key", [1, "a", (), (1,), (1,) * 9, (None, None), ((1,), (2,))])
    async def test_a_malformed_composite_key_is_refused(self, key: Any) -> None:
        ref = await self.reference(await self.call(self.save_composite, "Ada"))
        await self._is_no_row(replace(ref, pk=key))

    @needs("other_keys")
    async def test_keys_of_every_type_find_their_rows(self) -> None:
        for row in await self.call(self.save_with_other_keys):
            ref = await self.reference(row)
            (found,) = await self.fetch([ref])
            assert type(found) is type(row)
            assert await self.reference(found) == ref

    @pytest.mark.parametrize("key", HOSTILE_KEYS, ids=lambda key: ascii(key)[:20])
    async def test_a_hostile_key_brings_no_row_and_no_other_error(self, key: Any) -> None:
        await self.call(self.save, "Ada")
        ref = await self.reference(await self.call(self.save, "Grace"))
        await self._is_no_row(replace(ref, pk=key))

    async def _is_no_row(self, ref: Ref) -> None:
        try:
            found = await self.fetch([ref])
        except InvalidReference:
            return
        assert found == [None]

    async def test_a_database_that_does_not_exist_is_refused(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        with pytest.raises(InvalidReference):
            await self.fetch([replace(ref, db="no such database")])

    @needs("several_databases")
    async def test_a_row_is_looked_for_in_its_own_database(self) -> None:
        await self.call(self.save, "here")
        ref = await self.reference(await self.call(self.save_elsewhere, "there"))
        assert ref.db is not None
        assert [row.name for row in await self.fetch([ref])] == ["there"]
        here = await self.fetch([replace(ref, db=None)])
        assert [row and row.name for row in here] != ["there"]

    @needs("hidden_rows")
    async def test_a_row_that_default_queries_leave_out_is_found(self) -> None:
        ref = await self.reference(await self.call(self.save_hidden, "Ada"))
        assert [row.name for row in await self.fetch([ref])] == ["Ada"]

    @needs("outages")
    async def test_a_database_without_an_answer_is_unavailable_and_no_row_is_gone(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        async with self.within(self.outage()):
            with pytest.raises(ReferenceUnavailable):
                await self.fetch([ref])
        assert [row.name for row in await self.fetch([ref])] == ["Ada"]
