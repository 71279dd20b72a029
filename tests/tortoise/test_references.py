"""From an instance to a reference, and from many references to rows."""

from __future__ import annotations

import random
import subprocess
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import tortoise
from asynctasq import (
    AdapterNotReady,
    ConfigurationError,
    DeletedModelError,
    InvalidReference,
    Ref,
    ReferenceUnavailable,
    UnsavedModelError,
)
from asynctasq_tortoise import adapter
from tortoise import fields
from tortoise_shop.models import Country, Event, Note, Order, Page, Profile, Ticket, User

from .conftest import Initialise, Statements


def refs(*objects: Any) -> list[Ref]:
    return [adapter.to_ref(obj) for obj in objects]


def test_the_adapter_imports_no_tortoise() -> None:
    code = (
        "import sys, asynctasq_tortoise.adapter as a; "
        "assert not a.is_model(object()); assert a.task_scope() is None; "
        "assert not a.owns_transaction(object()); "
        "assert 'tortoise' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_instances_of_models_are_models() -> None:
    assert adapter.is_model(object.__new__(User))
    assert adapter.is_model(User(email="a@b.c"))
    assert not adapter.is_model(User)
    assert not adapter.is_model("user")


async def test_every_kind_of_key_comes_back(db: str) -> None:
    user = await User.create(email="ann@example.com")
    rows: list[Any] = [
        user,
        await Order.create(user=user, total=Decimal("9.50")),
        await Ticket.create(title="first"),
        await Country.create(code="ÅX-1"),
        await Event.create(number=2**40, title="far"),
        await Profile.create(user=user, bio="writes"),
        await Page.create(title="about"),
    ]
    for row in rows:
        (ref,) = refs(row)
        assert ref.db is None
        (found,) = await adapter.fetch_many([ref])
        assert found == row
        assert found is not row
        assert type(found) is type(row)


def test_tortoise_itself_has_no_composite_keys() -> None:
    keys = {name: fields.IntField(primary_key=True) for name in ("row", "seat")}
    with pytest.raises(tortoise.exceptions.ConfigurationError, match="two primary keys"):
        type("Seat", (tortoise.Model,), keys)


async def test_the_reference_names_the_class_and_holds_nothing_but_the_key(sqlite: str) -> None:
    ticket = await Ticket.create(title="secret")
    (ref,) = refs(ticket)
    assert ref == Ref("tortoise_shop.models.Ticket", ticket.id)
    assert isinstance(ref.pk, UUID)


async def test_a_reference_costs_no_query(sqlite: str, statements: Statements) -> None:
    user = await User.create(email="ann@example.com")
    partial = await User.all().only("id").get(id=user.id)
    statements.seen.clear()
    refs(user, partial)
    assert statements.seen == []


async def test_an_unsaved_instance_is_refused_though_its_key_is_set(sqlite: str) -> None:
    ticket = Ticket(title="new")
    assert ticket.id is not None
    with pytest.raises(UnsavedModelError, match="save it"):
        adapter.to_ref(ticket)
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(User(email="a@b.c"))


async def test_a_deleted_instance_is_refused_until_it_is_inserted_again(db: str) -> None:
    country = await Country.create(code="de")
    await country.delete()
    with pytest.raises(DeletedModelError, match="deleted"):
        adapter.to_ref(country)
    await country.save(force_create=True)
    assert adapter.to_ref(country).pk == "de"


async def test_an_instance_loaded_without_its_key_is_refused(sqlite: str) -> None:
    await User.create(email="ann@example.com")
    partial = await User.all().only("email").first()
    with pytest.raises(UnsavedModelError, match="only"):
        adapter.to_ref(partial)


async def test_rows_come_in_the_order_asked_with_none_for_those_that_are_gone(db: str) -> None:
    users = [await User.create(email=f"{i}@example.com") for i in range(20)]
    gone = users[7]
    asked = refs(*users)
    await gone.delete()
    random.shuffle(asked)
    found = await adapter.fetch_many(asked)
    expected = [None if ref.pk == gone.id else ref.pk for ref in asked]
    assert [getattr(row, "id", None) for row in found] == expected


async def test_a_repeated_key_gives_instances_that_share_nothing(sqlite: str) -> None:
    user = await User.create(email="ann@example.com", tags=["a"])
    first, second, third = await adapter.fetch_many(refs(user, user, user))
    first.tags.append("b")  # type: ignore[union-attr]
    assert first is not second
    assert second.tags == third.tags == ["a"]  # type: ignore[union-attr]


async def test_five_thousand_rows_take_three_queries(db: str, statements: Statements) -> None:
    await Event.bulk_create([Event(number=i) for i in range(1, 5001)])
    asked = [Ref("tortoise_shop.models.Event", i) for i in range(5000, 0, -1)]
    statements.seen.clear()
    found = await adapter.fetch_many(asked)
    assert [row.number for row in found] == list(range(5000, 0, -1))  # type: ignore[union-attr]
    assert statements.selects() == 3


async def test_a_default_manager_hides_nothing(sqlite: str) -> None:
    note = await Note.create(text="x", is_hidden=True)
    assert await Note.all().count() == 0
    (found,) = await adapter.fetch_many(refs(note))
    assert found == note


HOSTILE: list[tuple[str, Any]] = [
    ("User", "1 OR 1=1"),
    ("User", None),
    ("User", True),
    ("User", [1, 2]),
    ("User", {"id": 1}),
    ("User", 2**31),
    ("User", 2**70),
    ("User", -(2**31) - 1),
    ("User", float("nan")),
    ("User", float("inf")),
    ("User", 1.5),
    ("User", b"1"),
    ("User", uuid4()),
    ("Ticket", "no uuid"),
    ("Ticket", 7),
    ("Country", "nul\x00"),
    ("Country", b"de"),
    ("Country", "longer than ten"),
    ("Profile", "x"),
]


@pytest.mark.parametrize(("model", "pk"), HOSTILE)
async def test_what_cannot_be_a_key_is_an_invalid_reference(
    model: str, pk: Any, sqlite: str, statements: Statements
) -> None:
    with pytest.raises(InvalidReference, match="cannot be"):
        await adapter.fetch_many([Ref(f"tortoise_shop.models.{model}", pk)])
    assert statements.selects() == 0


async def test_strange_but_possible_keys_are_simply_not_found(db: str) -> None:
    keys = ["'; DROP --", "%", '"', "ü" * 9, "", "日本"]
    found = await adapter.fetch_many([Ref("tortoise_shop.models.Country", k) for k in keys])
    assert found == [None] * len(keys)


async def test_a_backslash_never_reaches_a_statement_unescaped(db: str) -> None:
    asked = [Ref("tortoise_shop.models.Country", key) for key in ("\\", "\\' OR 1=1")]
    if db.startswith("mysql") and tortoise.__version__.startswith("0.21."):
        with pytest.raises(InvalidReference, match="backslash"):
            await adapter.fetch_many(asked)
    else:
        await Country.create(code="\\")
        first, second = await adapter.fetch_many(asked)
        assert first.code == "\\"  # type: ignore[union-attr]
        assert second is None


async def test_without_initialisation_and_configuration_the_adapter_is_not_ready() -> None:
    with pytest.raises(AdapterNotReady, match="tortoise_config"):
        await adapter.fetch_many([Ref("tortoise_shop.models.User", 1)])


UNREACHABLE = {
    "asyncpg": "asyncpg://nobody:secret-word@127.0.0.1:1/nothing",
    "mysql": "mysql://nobody:secret-word@127.0.0.1:1/nothing",
    "psycopg": "psycopg://nobody:secret-word@127.0.0.1:1/nothing?timeout=1",
}


@pytest.mark.parametrize("kind", UNREACHABLE)
async def test_a_database_that_is_down_makes_the_reference_unavailable(
    kind: str, initialise: Initialise
) -> None:
    await initialise(db_url=UNREACHABLE[kind], schemas=False)
    with pytest.raises(ReferenceUnavailable, match=r"User could not answer") as e:
        await adapter.fetch_many([Ref("tortoise_shop.models.User", 1)])
    assert e.value.__cause__ is not None
    assert "secret-word" not in f"{e.value}{e.value.__cause__}"


async def test_an_error_of_the_query_is_no_outage(sqlite_url: str, initialise: Initialise) -> None:
    from tortoise.exceptions import OperationalError

    await initialise(db_url=sqlite_url, schemas=False)
    with pytest.raises(OperationalError, match="no such table"):
        await adapter.fetch_many([Ref("tortoise_shop.models.User", 1)])


async def test_an_instance_from_another_database_keeps_its_alias(
    tmp_path: Any, initialise: Initialise
) -> None:
    from tortoise.connection import connections

    names = ("default", "other")
    for name in names:
        await initialise(db_url=f"sqlite://{tmp_path}/{name}.db")
    config = {
        "connections": {name: f"sqlite://{tmp_path}/{name}.db" for name in names},
        "apps": {"models": {"models": ["tortoise_shop.models"], "default_connection": "default"}},
    }
    await initialise(config=config, schemas=False)
    other = connections.get("other")
    await User.create(email="default@example.com")
    created = await User.create(using_db=other, email="other@example.com")
    loaded = await User.all().using_db(other).get(id=created.id)
    assert [ref.db for ref in refs(created, loaded)] == ["other", "other"]
    (found,) = await adapter.fetch_many(refs(loaded))
    assert found.email == "other@example.com"  # type: ignore[union-attr]
    await loaded.save(using_db=connections.get("default"))
    assert adapter.to_ref(loaded).db is None
    with pytest.raises(InvalidReference, match="no connection 'nowhere'"):
        await adapter.fetch_many([Ref("tortoise_shop.models.User", 1, db="nowhere")])


class ReadsFromReplica:
    def db_for_read(self, model: type) -> str:
        return "replica"

    def db_for_write(self, model: type) -> str:
        return "primary"


async def test_a_row_read_through_a_router_is_fetched_from_where_it_is_written(
    tmp_path: Any, initialise: Initialise
) -> None:
    from tortoise.connection import connections

    names = ("default", "primary", "replica")
    for name in names:
        await initialise(db_url=f"sqlite://{tmp_path}/{name}.db")
    config = {
        "connections": {name: f"sqlite://{tmp_path}/{name}.db" for name in names},
        "apps": {"models": {"models": ["tortoise_shop.models"], "default_connection": "default"}},
    }
    await initialise(config=config, schemas=False, routers=[ReadsFromReplica])
    await User.create(email="primary@example.com")
    await User.create(using_db=connections.get("replica"), email="replica@example.com")
    user = await User.get(id=1)
    assert user.email == "replica@example.com"
    (ref,) = refs(user)
    assert ref.db is None
    (found,) = await adapter.fetch_many([ref])
    assert found.email == "primary@example.com"  # type: ignore[union-attr]


async def test_a_model_outside_of_the_configured_modules_is_named(sqlite: str) -> None:
    from tortoise.models import Model

    class Stray(Model):
        pass

    from asynctasq import class_path

    with pytest.raises(ConfigurationError, match="modules"):
        await adapter.fetch_many([Ref(class_path(Stray), 1)])
