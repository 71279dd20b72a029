"""Keys of every type, of instances that were just inserted and of those that were loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from asynctasq import PLAIN_TYPES, Ref, SerializationError, UnsavedModelError
from asynctasq_tortoise import adapter
from asynctasq_tortoise.loading import is_0_21
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tortoise import Tortoise, fields
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.models import Model
from tortoise.transactions import in_transaction
from tortoise_shop.keyed import KEYED, KINDS, CharField
from tortoise_shop.models import Country, Ticket, User

from .conftest import KINDS as DATABASES
from .conftest import Initialise, forget_initialisation, make_database

MODULES: dict[str, Any] = {"models": ["tortoise_shop.keyed"]}


@pytest.fixture(scope="module", params=DATABASES)
def keyed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a database with the tables, on each server in turn."""

    async def create(url: str) -> None:
        await Tortoise.init(db_url=url, modules=MODULES)
        await Tortoise.generate_schemas()
        await forget_initialisation()

    with contextmanager(make_database)(request.param, tmp_path_factory.mktemp("keys")) as url:
        asyncio.run(create(url))
        yield url


async def _insert(model: Any, values: list[Any]) -> list[Any]:
    """Rows in place of those that were there; without values that the driver takes for no key."""
    await model.all().delete()
    rows: list[Any] = []
    for value in values:
        row = model(key=value, name=str(len(rows)))
        row.key = value  # as an application assigns it, past the constructor's conversion
        try:
            await row.save(force_create=True)
        except Exception:  # noqa: BLE001 - what each driver raises is its own
            continue
        rows.append(row)
    return rows


async def _finds(model: Any, values: list[Any]) -> bool:
    """Whether there were rows, all of which were found."""
    rows = await _insert(model, values)
    sent = [adapter.to_ref(row) for row in rows]
    assert {type(ref.pk) for ref in sent} <= PLAIN_TYPES
    assert [row and row.name for row in await fetch(sent)] == [row.name for row in rows]
    loaded = sorted(await model.all(), key=lambda row: int(row.name))
    again = [adapter.to_ref(row) for row in loaded]
    assert [row and row.name for row in await fetch(again)] == [row.name for row in rows]
    return bool(rows)


async def fetch(refs: list[Ref]) -> list[Any]:
    return list(await adapter.fetch_many(refs)) if refs else []


#: Keys that a driver does not take.
REFUSED = {("time", "sqlite")}

#: Keys that Tortoise 0.21 itself does not find, since it writes values into statements otherwise.
LOST_BY_0_21 = {
    *(("moment", "sqlite"), ("moment_naive", "sqlite"), ("decimal", "sqlite")),
    *(("moment", "mysql"), ("moment_naive", "mysql"), ("time", "mysql")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.* received a naive:RuntimeWarning")
def test_a_key_of_every_type_finds_its_row_fresh_and_loaded(keyed: str, kind: str) -> None:
    case = (kind, keyed.partition(":")[0])
    if is_0_21() and case in LOST_BY_0_21:
        pytest.skip("Tortoise 0.21 does not find such keys")

    async def check(values: list[Any]) -> None:
        EXECUTOR_CACHE.clear()
        await Tortoise.init(db_url=keyed, modules=MODULES)
        try:
            found.append(await _finds(KEYED[kind], values))
        finally:
            await forget_initialisation()

    @settings(
        max_examples=3, derandomize=True, database=None, deadline=None, phases=[Phase.generate]
    )
    @given(st.lists(KINDS[kind][1], min_size=1, max_size=5, unique=True))
    def draw(values: list[Any]) -> None:
        asyncio.run(check(values))

    found: list[bool] = []
    draw()
    assert all(found) or case in REFUSED


class Sealed:
    """A value of the application that nothing can be made of."""


class SealedField(CharField):  # type: ignore[misc]
    """Hands it to a driver that is expected to know it."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return value

    def to_python_value(self, value: Any) -> Any:
        return value


class Box(Model):
    seal = SealedField(primary_key=True, max_length=10)


def test_a_key_that_cannot_travel_is_refused_where_it_is_dispatched() -> None:
    box = Box(seal=Sealed())
    box._saved_in_db = True
    with pytest.raises(SerializationError, match=r"key of this Box .* seal holds Sealed"):
        adapter.to_ref(box)


async def test_a_row_that_the_database_knows_in_another_case_is_found(
    tmp_path: Any, initialise: Initialise
) -> None:
    for url in make_database("mysql", tmp_path):
        await initialise(db_url=url)
        await Country.create(code="de")
        await Country.create(code="fr")
        found, other = await fetch(
            [Ref("tortoise_shop.models.Country", "DE"), Ref("tortoise_shop.models.Country", "fr")]
        )
        assert (found.code, other.code) == ("de", "fr")


async def test_rows_of_bulk_create_exist_if_their_keys_are_known(db: str) -> None:
    ticket, country = Ticket(title="a"), Country(code="de")
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(ticket)
    await Ticket.bulk_create([ticket])
    await Country.bulk_create([country])
    found = await fetch([adapter.to_ref(ticket)])
    assert found[0].id == ticket.id
    assert adapter.to_ref(country).pk == "de"
    user = User(email="a@example.com")
    await User.bulk_create([user])
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(user)


async def test_a_row_that_may_have_met_a_conflict_is_not_known_to_exist(sqlite: str) -> None:
    ticket = Ticket(title="a")
    await Ticket.bulk_create([ticket], ignore_conflicts=True)
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(ticket)


async def test_a_clone_of_a_bulk_created_row_is_not_saved(sqlite: str) -> None:
    country = Country(code="de")
    await Country.bulk_create([country])
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(country.clone(pk="fr"))


async def test_a_rollback_takes_bulk_created_rows_away(db: str) -> None:
    kept, lost = Country(code="de"), Country(code="fr")
    with suppress(ValueError):
        async with in_transaction():
            await Country.bulk_create([lost])
            assert adapter.to_ref(lost).pk == "fr"
            assert adapter.is_pending_write(lost)
            raise ValueError
    async with in_transaction():
        await Country.bulk_create([kept])
    assert adapter.to_ref(kept).pk == "de"
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(lost)


async def test_an_instance_of_a_migrations_model_is_refused(sqlite: str) -> None:
    state = pytest.importorskip("tortoise.migrations.schema_generator.state")
    made = state.ModelState(
        name="User",
        app="models",
        table="user",
        abstract=False,
        description="",
        options={"app": "models"},
        bases=(Model,),
        pk_field_name="id",
        fields={"id": fields.IntField(primary_key=True)},
    )
    user = made.render(None)(id=1)
    user._saved_in_db = True
    with pytest.raises(SerializationError, match="for a migration"):
        adapter.to_ref(user)
