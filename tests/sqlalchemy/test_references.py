"""References: from an instance in any state to a key, without SQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import pytest
from asynctasq import DeletedModelError, UnsavedModelError
from asynctasq_sqlalchemy import adapter
from sashop import (
    Account,
    Animal,
    Base,
    Cat,
    Color,
    Country,
    Dog,
    Letter,
    Membership,
    Paint,
    Point,
    Price,
    Reading,
    User,
)
from sqlalchemy import Column, Integer, Table, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry

from .stores import Store

KEY = UUID("11111111-2222-3333-4444-555555555555")


@pytest.mark.parametrize("cls", [User, Point, Dog, Cat, Letter, Membership])
def test_mapped_classes_are_models_even_as_bare_objects(cls: type) -> None:
    assert adapter.is_model(object.__new__(cls)) is True


class _Watched(type):
    """A metaclass that notes what is asked of its classes."""

    asked: ClassVar[list[str]] = []

    def __getattribute__(cls, name: str) -> Any:
        type.__getattribute__(cls, "asked").append(name)
        return super().__getattribute__(name)


class _Strange(metaclass=_Watched):
    """What a message may name."""


def test_finding_out_whether_a_class_is_a_model_runs_none_of_its_code() -> None:
    strange = object.__new__(_Strange)
    _Watched.asked.clear()
    assert not adapter.is_model(strange)
    assert _Watched.asked == []


@pytest.mark.parametrize("obj", [1, "x", None, [], {}, User, Base, User.__table__, User.id])
def test_anything_else_is_no_model(obj: object) -> None:
    assert not adapter.is_model(obj)


def test_an_imperatively_mapped_class_is_a_model_and_its_unmapped_subclass_is_not() -> None:
    class Plain:
        id: int

    class Child(Plain):
        pass

    plain = registry()
    plain.map_imperatively(
        Plain, Table("plain", plain.metadata, Column("id", Integer, primary_key=True))
    )
    assert adapter.is_model(object.__new__(Plain)) is True
    assert not adapter.is_model(object.__new__(Child))


@pytest.mark.parametrize(
    ("make", "pk"),
    [
        (lambda: User(id=7, name="Ann"), 7),
        (lambda: Account(id=KEY), KEY),
        (lambda: Country(code="CH", title="Schweiz"), "CH"),
        (lambda: Price(amount=Decimal("12.50")), Decimal("12.50")),
        (
            lambda: Reading(taken=datetime(2026, 11, 22, 1, 2, 3, 4)),
            datetime(2026, 11, 22, 1, 2, 3, 4),
        ),
        (lambda: Membership(organisation="ACM", number=5), ("ACM", 5)),
        (lambda: Paint(color=Color.BLUE), "BLUE"),
        (lambda: Cat(id=3), 3),
        (lambda: Dog(id=4), 4),
        (lambda: Letter(id=5), 5),
    ],
)
async def test_each_kind_of_key_goes_into_the_reference_and_finds_its_row(
    store: Store, make: Callable[[], Any], pk: object
) -> None:
    row = make()
    store.add(row)
    ref = adapter.to_ref(row)
    assert (ref.pk, ref.model, ref.db) == (pk, f"sashop.{type(row).__name__}", None)
    (found,) = await adapter.fetch_many([ref])
    assert type(found) is type(row)
    assert found is not row
    assert adapter.to_ref(found) == ref


def test_a_dataclass_model_is_referred_to_by_its_key(lite: Store) -> None:
    point = Point(x=1)
    lite.add(point)
    assert adapter.to_ref(point).pk == point.id


async def test_an_expired_an_attached_and_a_detached_instance_need_no_sql(lite: Store) -> None:
    lite.add(Country(code="CH", title="Schweiz"))
    async with lite.factory(expire_on_commit=True) as session:
        country = await session.get(Country, "CH")
        assert country is not None
        await session.commit()
        assert "code" not in vars(country)
        with lite.counted() as statements:
            assert adapter.to_ref(country).pk == "CH"
            session.expunge(country)
            assert adapter.to_ref(country).pk == "CH"
        assert statements == []


def test_a_flushed_row_can_be_referred_to_before_its_commit(lite: Store) -> None:
    with lite.setup() as session:
        user = User(name="Ann")
        session.add(user)
        session.flush()
        assert adapter.to_ref(user).pk == user.id


@pytest.mark.parametrize("row", [User(id=1, name="Ann"), Account(id=KEY)])
def test_a_row_that_was_never_flushed_is_refused(lite: Store, row: object) -> None:
    with pytest.raises(UnsavedModelError, match="has no row yet"):
        adapter.to_ref(row)
    with lite.setup() as session:
        session.add(row)
        with pytest.raises(UnsavedModelError, match="flush or commit"):
            adapter.to_ref(row)
        session.expunge(row)


def test_a_listener_can_refer_to_the_row_that_was_just_inserted(lite: Store) -> None:
    seen: list[tuple[object, bool]] = []

    def note(_mapper: object, _connection: object, user: User) -> None:
        seen.append((adapter.to_ref(user).pk, adapter.is_pending_write(user)))

    def refused(_mapper: object, _connection: object, account: Account) -> None:
        with pytest.raises(UnsavedModelError):
            adapter.to_ref(account)
        seen.append((account.id, False))

    event.listen(User, "after_insert", note)
    event.listen(Account, "before_insert", refused)
    try:
        lite.add(User(id=7, name="Ann"))
        lite.add(Account(id=KEY))
    finally:
        event.remove(User, "after_insert", note)
        event.remove(Account, "before_insert", refused)
    assert seen == [(7, True), (KEY, False)]


def test_a_row_whose_flush_failed_is_none_whatever_was_inserted_before(lite: Store) -> None:
    lite.add(User(id=1, name="Ann"))
    with lite.setup() as session:
        inserted = Account(id=KEY)
        session.add_all([inserted, User(id=1, name="double")])
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        session.add(inserted)
        with pytest.raises(UnsavedModelError):
            adapter.to_ref(inserted)


def test_an_insert_that_was_rolled_back_leaves_no_reference(lite: Store) -> None:
    with lite.setup() as session:
        user = User(name="Ann")
        session.add(user)
        session.flush()
        session.rollback()
        with pytest.raises(UnsavedModelError):
            adapter.to_ref(user)


def test_a_deleted_row_is_refused_from_the_call_of_delete_on(lite: Store) -> None:
    user = User(name="Ann")
    lite.add(user)
    with lite.setup() as session:
        user = session.get_one(User, user.id)
        session.delete(user)
        with pytest.raises(DeletedModelError, match="User was deleted"):
            adapter.to_ref(user)
        session.flush()
        with pytest.raises(DeletedModelError):
            adapter.to_ref(user)
        session.commit()
        with pytest.raises(DeletedModelError):
            adapter.to_ref(user)


def test_a_delete_that_was_rolled_back_is_none(lite: Store) -> None:
    user = User(name="Ann")
    lite.add(user)
    with lite.setup() as session:
        user = session.get_one(User, user.id)
        session.delete(user)
        session.flush()
        session.rollback()
        assert adapter.to_ref(user).pk == user.id


async def test_a_polymorphic_row_loaded_by_its_base_keeps_its_own_class(store: Store) -> None:
    store.add(Animal(id=1), Dog(id=2, tricks="roll"), Cat(id=3))
    with store.setup() as session:
        rows = [session.get_one(Animal, n) for n in (1, 2, 3)]
    refs = [adapter.to_ref(row) for row in rows]
    assert [ref.model for ref in refs] == ["sashop.Animal", "sashop.Dog", "sashop.Cat"]
    animal, dog, cat = [(await adapter.fetch_many([ref]))[0] for ref in refs]
    assert (type(animal), type(cat)) == (Animal, Cat)
    assert isinstance(dog, Dog)
    assert dog.tricks == "roll"


def test_the_adapter_alone_does_not_import_sqlalchemy() -> None:
    code = (
        "import sys, asynctasq, asynctasq_sqlalchemy.adapter as a\n"
        "assert a.is_model(object()) is None and a.task_scope(None, ()) is None\n"
        "assert a.owns_transaction(object()) is None\n"
        "a.configure({})\n"
        "print(sorted(m for m in sys.modules if m.startswith('sqlalchemy')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "statement",
    [
        "import sqlalchemy.ext.asyncio",
        "import sqlalchemy.orm",
        "from sqlalchemy.ext.asyncio import create_async_engine",
        "import sqlmodel",
        "from asynctasq_sqlalchemy import create_worker_session_factory, task_session",
    ],
)
def test_sqlalchemy_may_be_imported_in_any_way_after_the_adapter(statement: str) -> None:
    code = (
        "import sys, asynctasq_sqlalchemy.adapter as a\n"
        f"{statement}\n"
        "assert 'asynctasq_sqlalchemy.commits' in sys.modules\n"
        "assert a.is_model(object()) is False"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_mapped_before_the_adapter_are_known_without_being_configured() -> None:
    code = (
        "from sqlalchemy.orm import *\n"
        "class Base(DeclarativeBase): pass\n"
        "class A(Base):\n"
        "    __tablename__ = 'a'\n"
        "    id: Mapped[int] = mapped_column(primary_key=True)\n"
        "    other: Mapped['NotThereYet'] = relationship()\n"
        "import asynctasq_sqlalchemy.adapter\n"
        "from asynctasq_sqlalchemy.mapped_classes import mapped_classes\n"
        "class B(Base):\n"
        "    __tablename__ = 'b'\n"
        "    id: Mapped[int] = mapped_column(primary_key=True)\n"
        "assert set(mapped_classes()) == {A, B}, mapped_classes()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
