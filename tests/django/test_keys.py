"""Keys of every type, of instances that were just inserted and of those that were loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from asynctasq import (
    PLAIN_TYPES,
    InvalidReference,
    Ref,
    SerializationError,
    UnsavedModelError,
    class_path,
)
from asynctasq_django import adapter, loading
from asynctasq_django.lanes import close_lanes
from django.core import serializers
from django.db import connections, models
from django.db.migrations.state import ModelState, ProjectState
from djshop.keyed import KEYED, KINDS, RELATED, CharField, Isbn, Owned, Owner
from djshop.models import Country, Order, Session, User
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("ignore:.* received a naive:RuntimeWarning")


@pytest.fixture(scope="module", params=["default", "maria", "lite"])
def keyed(request: pytest.FixtureRequest, _databases: Callable[[str], None]) -> Iterator[str]:
    """A database of each kind in turn, with the tables."""
    alias: str = request.param
    _databases(alias)
    with connections[alias].schema_editor() as editor:
        for model in [*KEYED.values(), *RELATED]:
            editor.create_model(model)
    yield alias
    with connections[alias].schema_editor() as editor:
        for model in reversed([*KEYED.values(), *RELATED]):
            editor.delete_model(model)
    connections[alias].close()


def load(refs: list[Ref]) -> list[Any]:
    return list(loading.load(refs))


def _finds(model: Any, values: list[Any], alias: str) -> None:
    model._base_manager.using(alias).all()._raw_delete(alias)
    rows: list[Any] = []
    for value in values:
        row = model(key=value, name=str(len(rows)))
        row.save(using=alias, force_insert=True)
        rows.append(row)
    sent = [adapter.to_ref(row) for row in rows]
    assert {type(ref.pk) for ref in sent} <= PLAIN_TYPES
    assert [row and row.name for row in load(sent)] == [row.name for row in rows]
    loaded = sorted(model._base_manager.using(alias), key=lambda row: int(row.name))
    again = [adapter.to_ref(row) for row in loaded]
    assert [(type(r.pk), r) for r in again] == [(type(r.pk), r) for r in sent]
    assert [row and row.name for row in load(again)] == [row.name for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_every_type_finds_its_row_fresh_and_loaded(keyed: str, kind: str) -> None:
    @settings(
        max_examples=3, derandomize=True, database=None, deadline=None, phases=[Phase.generate]
    )
    @given(st.lists(KINDS[kind][1], min_size=1, max_size=5, unique_by=_stored))
    def check(values: list[Any]) -> None:
        _finds(KEYED[kind], values, keyed)

    check()


def _stored(value: Any) -> str:
    """What databases would take for the same key."""
    return str(value).lower().partition(" ")[0]


def test_a_key_that_is_another_row_travels_as_that_rows_key(keyed: str) -> None:
    owner = Owner(isbn=Isbn("1"))
    owner.save(using=keyed)
    owned = Owned(owner=owner, name="hers")
    owned.save(using=keyed)
    ref = adapter.to_ref(owned)
    assert ref.pk == "ISBN 1"
    (found,) = load([ref])
    assert (type(found), found.name) == (Owned, "hers")
    for row in reversed([owner, owned]):
        row.delete(using=keyed)


class Sealed:
    """A value of the application that nothing can be made of."""


class SealedField(CharField):  # type: ignore[misc]
    """Hands it to a driver that is expected to know it."""

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return value

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return value


class Box(models.Model):
    seal = SealedField(primary_key=True, max_length=10)

    class Meta:
        app_label = "djshop"


def test_a_key_that_cannot_travel_is_refused_where_it_is_dispatched() -> None:
    box = Box(seal=Sealed())
    box._state.adding = False
    with pytest.raises(SerializationError, match=r"key of this Box .* seal holds Sealed"):
        adapter.to_ref(box)


def test_a_row_that_the_database_knows_in_another_case_is_found(
    need_database: Callable[[str], str],
) -> None:
    alias = need_database("maria")
    Country.objects.using(alias).create(code="de")
    Country.objects.using(alias).create(code="fr")
    found = load([Ref("djshop.models.Country", code, alias) for code in ("DE", "fr")])
    assert [row and row.pk for row in found] == ["de", "fr"]


def test_an_instance_of_a_migrations_model_is_refused(db: str) -> None:
    state = ProjectState()
    state.add_model(ModelState.from_model(Country))
    country = state.apps.get_model("djshop", "Country").objects.create(code="de")
    with pytest.raises(SerializationError, match="for a migration"):
        adapter.to_ref(country)


def test_a_row_built_by_hand_exists_once_it_was_refreshed(alias: str) -> None:
    code = Country.objects.using(alias).create(code="de").code
    country = Country(code=code)
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(country)
    country.refresh_from_db(using=alias)
    assert load([adapter.to_ref(country)]) == [country]


async def test_a_row_built_by_hand_exists_once_it_was_refreshed_in_async_code(db: str) -> None:
    await Country.objects.acreate(code="de")
    country = Country(code="de")
    await country.arefresh_from_db()
    assert adapter.to_ref(country).pk == "de"
    await close_lanes()


def test_a_copy_under_another_key_and_a_refresh_that_failed_are_no_rows(db: str) -> None:
    user = User.objects.create(email="a@example.com")
    order = Order(pk=5, title="book", user=user)
    with pytest.raises(Order.DoesNotExist):
        order.refresh_from_db()
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(order)
    session = Session.objects.prefetch_related().get(pk=Session.objects.create().pk)
    session.refresh_from_db()
    session.pk, session._state.adding = Session().pk, True
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(session)


def test_deserialised_objects_exist_once_they_were_saved(db: str) -> None:
    text = serializers.serialize("json", [Country(code="de")])
    (loaded,) = serializers.deserialize("json", text)
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(loaded.object)
    loaded.save()
    assert adapter.to_ref(loaded.object).pk == "de"


def test_rows_of_bulk_create_exist(db: str) -> None:
    (country,) = Country.objects.bulk_create([Country(code="de")])
    assert asyncio.run(_fetch(adapter.to_ref(country))) == [country]


async def _fetch(*refs: Ref) -> list[Any]:
    try:
        return list(await adapter.fetch_many(list(refs)))
    finally:
        await close_lanes()


NO_KEYS: list[Any] = [
    *(None, True, "no such thing", b"x", (1,), [1], {}, float("nan"), Decimal("NaN"), "nul\0"),
    UUID("d8816120-c2f8-d86f-1a51-1ee72bd03277"),  # of no version that MariaDB takes
]


@pytest.mark.parametrize("kind", ["uuid", "own_enum", "date", "moment", "decimal", "text"])
@pytest.mark.parametrize("pk", NO_KEYS, ids=repr)
def test_what_cannot_be_a_key_brings_no_row_and_no_other_error(
    keyed: str, kind: str, pk: object
) -> None:
    try:
        found = load([Ref(class_path(KEYED[kind]), pk, keyed)])
    except InvalidReference:
        return
    assert found == [None]
