"""From an instance to its reference: which objects have one, with which key, at what cost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgpack
import pytest

from asynctasq import DeletedModelError, UnsavedModelError, class_path
from asynctasq.adapters.plugins import installed
from asynctasq.wire.decoding import collect_references
from asynctasq.wire.encoding import REF, encode_arguments

from .application import ApplicationUnderTest, Seen, needs

#: The exact types that a key, or each part of it, may have: only these survive the wire.
KEY_TYPES = (
    *(int, str, bytes, float, bool, Decimal, uuid.UUID),
    *(datetime, date, time, timedelta),
)

#: Maximum bytes of one reference, besides the class's path and the adapter's name.
LARGEST_FRAME = 48


class ReferencesTests(ApplicationUnderTest):
    """`is_model` and `to_ref`, called directly and by a dispatch."""

    async def test_the_adapter_has_the_hooks_that_every_adapter_has(self) -> None:
        for hook in ("is_model", "to_ref", "fetch_many"):
            assert getattr(self.hooks, hook) is not None, f"no hook {hook}"

    async def test_it_owns_instances_of_its_models(self) -> None:
        for row in (await self.call(self.save, "Ada"), await self.call(self.save_other, "x")):
            assert installed().owner_of(row) is self.hooks

    async def test_it_owns_nothing_else(self) -> None:
        row = await self.call(self.save, "Ada")
        others = [None, 1, "Ada", b"", [row], {"row": row}, object(), type(row), self.save, ...]
        assert self.hooks.is_model is not None
        assert [other for other in others if self.hooks.is_model(other)] == []

    async def test_it_tells_a_model_by_its_type_alone(self) -> None:
        model = type(await self.call(self.save, "Ada"))
        assert self.hooks.is_model is not None
        assert self.hooks.is_model(object.__new__(model))

    async def test_a_reference_names_the_class_and_the_key(self) -> None:
        row = await self.call(self.save, "Ada")
        ref = await self.reference(row)
        assert ref.model == class_path(type(row))
        assert ref.model_class() is type(row)
        assert type(ref.pk) in KEY_TYPES
        assert ref.options == ()

    async def test_two_rows_have_two_references_and_one_row_has_one(self) -> None:
        one, other = await self.call(self.save, "Ada"), await self.call(self.save, "Ada")
        assert await self.reference(one) == await self.reference(one)
        assert await self.reference(one) != await self.reference(other)

    async def test_a_reference_costs_no_statement(self) -> None:
        row = await self.call(self.save, "Ada")
        with self.statements() as seen:
            await self.reference(row)
        assert seen == []

    async def test_the_statement_counter_counts(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        with self.statements() as seen:
            await self.fetch([ref])
        assert self.count(seen) == 1, seen

    @needs("stale_instances")
    async def test_an_instance_without_loaded_attributes_has_the_same_reference(self) -> None:
        row = await self.call(self.save, "Ada")
        expected = await self.reference(row)
        stale = await self.call(self.stale, row)
        with self.statements() as seen:
            assert await self.reference(stale) == expected
        assert seen == []

    @needs("composite_keys")
    async def test_a_composite_key_is_a_tuple_of_plain_values(self) -> None:
        ref = await self.reference(await self.call(self.save_composite, "Ada"))
        assert type(ref.pk) is tuple
        assert len(ref.pk) > 1
        assert {type(part) for part in ref.pk} <= set(KEY_TYPES)

    @needs("other_keys")
    async def test_keys_of_every_type_come_back_from_the_wire_as_they_were(self) -> None:
        rows = await self.call(self.save_with_other_keys)
        assert rows
        for row in rows:
            ref = await self.reference(row)
            [(_, [back])] = collect_references(self._payload(row))
            assert (type(back.pk), back.pk) == (type(ref.pk), ref.pk)

    @needs("other_keys")
    async def test_a_row_has_the_same_key_fresh_and_fetched(self) -> None:
        saved = await self.call(self.save_with_other_keys)
        for row in [*saved, await self.call(self.save, "Ada")]:
            fresh = await self.reference(row)
            (found,) = await self.fetch([fresh])
            assert type(found) is type(row)
            fetched = await self.reference(found)
            assert _exactly(fetched.pk) == _exactly(fresh.pk), type(row)
            assert {cls for cls, _ in _exactly(fresh.pk)} <= set(KEY_TYPES), type(row)
            assert [type(again) for again in await self.fetch([fetched])] == [type(row)]

    async def test_a_payload_holds_label_key_and_database_and_nothing_of_the_row(self) -> None:
        name = f"secret-{uuid.uuid4().hex}"
        payload = self._payload(await self.call(self.save, name))
        assert name.encode() not in payload
        (body,) = _reference_maps(payload)
        assert set(body) <= {f"__orm:{self.adapter}__", "__orm_class__", "__orm_db__"}

    async def test_the_default_database_is_not_named(self) -> None:
        assert (await self.reference(await self.call(self.save, "Ada"))).db is None

    async def test_a_reference_costs_little_more_than_its_class_and_key(self) -> None:
        row = await self.call(self.save, "Ada")
        ref = await self.reference(row)
        empty = encode_arguments((None,), {}, (), installed().owner_of, {}).payload
        size = len(self._payload(row)) - len(empty)
        beside_the_key = size - len(msgpack.packb(ref.pk, default=str))
        assert beside_the_key <= LARGEST_FRAME + len(ref.model) + len(self.adapter)

    async def test_an_unsaved_instance_is_refused_naming_the_argument(self) -> None:
        row = await self.call(self.new, "Ada")
        task = Seen().task()
        with pytest.raises(UnsavedModelError, match=r"^row: "):
            await self.send(task(row))
        with pytest.raises(UnsavedModelError, match=r"^row\['people'\]\[1\]: "):
            await self.send(task(row={"people": [1, row]}))

    @needs("knows_deleted")
    async def test_a_deleted_instance_is_refused_naming_the_argument(self) -> None:
        row = await self.call(self.save, "Ada")
        await self.call(self.delete, row)
        with pytest.raises(DeletedModelError, match=r"^row: "):
            await self.send(Seen().task()(row))

    def _payload(self, row: object) -> bytes:
        return encode_arguments((row,), {}, ("row",), installed().owner_of, {}).payload


def _exactly(pk: Any) -> list[tuple[type, Any]]:
    """The parts of a key, each with its type, since `1 == True` and `1 == 1.0`."""
    return [(type(part), part) for part in (pk if isinstance(pk, tuple) else (pk,))]


def _reference_maps(payload: bytes) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def extension(code: int, data: bytes) -> None:
        if code == REF:
            found.append(msgpack.unpackb(data, ext_hook=lambda _, key: key))

    msgpack.unpackb(payload, ext_hook=extension)
    yield from found
