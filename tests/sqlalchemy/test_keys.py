"""Keys of every type, of instances that were just inserted and of those that were loaded."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from asynctasq import PLAIN_TYPES, InvalidReference, Ref, SerializationError, class_path
from asynctasq_sqlalchemy import adapter
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sakeys import KINDS, MODELS, Code, Isbn, KeyBase, Level, Pair
from sqlalchemy import (
    URL,
    Column,
    Integer,
    String,
    Table,
    TypeDecorator,
    create_engine,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import Mapped, column_property, mapped_column
from sqlalchemy.orm.properties import ColumnProperty
from sqlalchemy.pool import NullPool

from .stores import ASYNC_DRIVERS, SYNC_DRIVERS, Store, open_store


@pytest.fixture(scope="module")
def keyed(
    request: pytest.FixtureRequest, database_url: Callable[[str], URL]
) -> Callable[[str], None]:
    """Makes the tables on a server when they are first asked for."""
    made: set[str] = set()

    def make(server: str) -> None:
        if server not in made:
            engine = create_engine(database_url(server), poolclass=NullPool)
            KeyBase.metadata.create_all(engine)
            engine.dispose()
            made.add(server)

    return make


@pytest.fixture(params=[*ASYNC_DRIVERS, *SYNC_DRIVERS], scope="module")
def keys(
    request: pytest.FixtureRequest,
    database_url: Callable[[str], URL],
    keyed: Callable[[str], None],
) -> Iterator[Store]:
    """Each driver in turn; the tables keep their rows."""
    with (
        pytest.MonkeyPatch.context() as patch,
        open_store(request.param, database_url, patch) as store,
    ):
        keyed(store.server)
        patch.setattr(KeyBase, "_asynctasq_session_factory", store.factory, raising=False)
        yield store


async def _in_session(store: Store, work: Callable[[Any], Any]) -> Any:
    """Call work with a synchronous session over the store's own driver."""
    if store.driver in ASYNC_DRIVERS:
        async with store.factory.begin() as session:
            return await session.run_sync(work)
    with store.factory.begin() as session:
        return work(session)


async def _insert(store: Store, model: type[Any], values: list[Any]) -> list[Any]:
    """Rows in place of those that were there; without values that the driver takes for no key."""
    await _in_session(store, lambda session: session.query(model).delete())
    rows: list[Any] = []
    for value in values:
        row = model(key=value, name=str(len(rows)))
        try:
            await _in_session(store, partial(_add, row=row))
        except (DBAPIError, StatementError, TypeError):  # the last is aiomysql's, for any bytes
            continue
        rows.append(row)
    return rows


def _add(session: Any, row: Any) -> None:
    session.add(row)


def _read(session: Any, model: type[Any]) -> list[Any]:
    rows = session.scalars(select(model)).all()
    session.expunge_all()
    return sorted(rows, key=lambda row: int(row.name))


#: Values that databases give back in another form, but find by the form in which they were given.
READ_OTHERWISE = {("zoned", "sqlite"), ("zoned", "mysql")}

#: Keys that a driver does not take.
REFUSED = {("bytes", "aiomysql")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_every_type_finds_its_row_fresh_and_loaded(keys: Store, kind: str) -> None:
    model = MODELS[kind]
    runner = asyncio.Runner()

    @settings(
        max_examples=3,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
    )
    @given(st.lists(KINDS[kind][1], min_size=1, max_size=5, unique=True))
    def check(values: list[Any]) -> None:
        runner.run(_finds(keys, kind, model, values))

    with runner:
        check()


async def _finds(store: Store, kind: str, model: type[Any], values: list[Any]) -> None:
    rows = await _insert(store, model, values)
    assert rows or (kind, store.driver) in REFUSED
    sent = [adapter.to_ref(row) for row in rows]
    assert {type(ref.pk) for ref in sent} <= PLAIN_TYPES
    assert [row and row.name for row in await fetch(sent)] == [row.name for row in rows]
    loaded = await _in_session(store, lambda session: _read(session, model))
    again = [adapter.to_ref(row) for row in loaded]
    assert [row and row.name for row in await fetch(again)] == [row.name for row in rows]
    if (kind, store.server) not in READ_OTHERWISE:
        assert [(type(r.pk), r) for r in again] == [(type(r.pk), r) for r in sent]


async def fetch(refs: list[Ref]) -> list[Any]:
    return list(await adapter.fetch_many(refs)) if refs else []


async def test_every_part_of_a_composite_key_travels_as_its_column_reads_it(keys: Store) -> None:
    rows = [
        Pair(code=Code.FIRST, level=Level.LOW, isbn=Isbn("1")),
        Pair(code="code-1", level=20, isbn=Isbn("1")),
    ]
    await _in_session(keys, lambda session: session.query(Pair).delete())
    await _in_session(keys, lambda session: session.add_all(rows))
    sent = [adapter.to_ref(row) for row in rows]
    assert [ref.pk for ref in sent] == [("code-1", 10, "ISBN 1"), ("code-1", 20, "ISBN 1")]
    assert [(row.code, row.level, row.isbn) for row in await fetch(sent)] == [
        ("code-1", 10, Isbn("1")),
        ("code-1", 20, Isbn("1")),
    ]


@pytest.mark.parametrize("kind", ["decorated", "enum", "uuid", "date", "decimal"])
@pytest.mark.parametrize(
    "pk", [None, True, "no such thing", b"x", (1,), [1], float("nan")], ids=repr
)
async def test_what_cannot_be_a_key_brings_no_row_and_no_other_error(
    lite: Store, kind: str, pk: object, tables: None
) -> None:
    try:
        found = await fetch([Ref(class_path(MODELS[kind]), pk)])
    except InvalidReference:
        return
    assert found == [None]


@pytest.fixture
def tables(lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the models with keys of every type, in SQLite, and those of this module."""
    monkeypatch.setattr(KeyBase, "_asynctasq_session_factory", lite.factory, raising=False)
    engine = lite.setup.kw["bind"]
    KeyBase.metadata.create_all(engine)


class Coin(enum.Enum):
    HEADS = 1
    TAILS = 2


class CoinType(TypeDecorator[Coin]):
    """Hands the member itself to the driver, which knows what to do with it."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Coin | None, dialect: Any) -> Any:
        return value if value is None or dialect.name == "default" else value.value

    def process_result_value(self, value: int | None, dialect: Any) -> Coin | None:
        return None if value is None else Coin(value)


class Toss(KeyBase):
    __tablename__ = "tosses"
    coin = mapped_column(CoinType(), primary_key=True)


async def test_a_key_that_cannot_travel_is_refused_where_it_is_dispatched(
    lite: Store, tables: None
) -> None:
    toss = Toss(coin=Coin.TAILS)
    lite.add(toss)
    with pytest.raises(SerializationError, match=r"the key of this Toss .* holds Coin"):
        adapter.to_ref(toss)


class Staff(ConcreteBase, KeyBase):
    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "staff", "concrete": True}


class Chief(Staff):
    """In a table of its own, which counts from 1 as well."""

    __tablename__ = "chiefs"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "chief", "concrete": True}


async def test_tables_of_concrete_inheritance_are_not_mistaken_for_each_other(
    lite: Store, tables: None
) -> None:
    rows = [Staff(id=1, name="Ann"), Chief(id=1, name="Bob"), Chief(id=2, name="Cleo")]
    lite.add(*rows)
    sent = [adapter.to_ref(row) for row in rows]
    for ref, row in zip(sent, rows, strict=True):
        (found,) = await fetch([ref])
        assert (type(found), found.name) == (type(row), row.name)
    assert await fetch([Ref(sent[0].model, 2)]) == [None]


class Reading(KeyBase):
    """Rows of a query, some of which have no second part of their key."""

    __table__ = Table(
        "halves",
        KeyBase.metadata,
        Column("first", Integer),
        Column("second", Integer),
        Column("name", String(20)),
    )
    __mapper_args__ = {"primary_key": [__table__.c.first, __table__.c.second]}


async def test_a_part_of_a_composite_key_may_be_null(lite: Store, tables: None) -> None:
    with lite.setup.begin() as session:
        session.execute(
            Reading.__table__.insert(),
            [
                {"first": 1, "second": None, "name": "half"},
                {"first": 1, "second": 2, "name": "whole"},
            ],
        )
    with lite.setup() as session:
        rows: Sequence[Any] = session.scalars(select(Reading)).all()
        session.expunge_all()
    sent = [adapter.to_ref(row) for row in rows]
    assert {ref.pk for ref in sent} == {(1, None), (1, 2)}
    assert [row.name for row in await fetch(sent)] == [row.name for row in rows]
    with pytest.raises(InvalidReference):
        await fetch([Ref(sent[0].model, (None, None))])


class Loud(ColumnProperty.Comparator[str]):
    """Makes the attribute compare otherwise than the column."""

    def __eq__(self, other: object) -> Any:
        return func.upper(self.__clause_element__()) == other

    def in_(self, other: Any) -> Any:
        raise AssertionError("the ORM's own get does not ask the attribute")


class Shout(KeyBase):
    __tablename__ = "shouts"
    word = column_property(Column("word", String(20), primary_key=True), comparator_factory=Loud)


async def test_a_row_is_found_by_its_column_whatever_its_attribute_compares(
    lite: Store, tables: None
) -> None:
    shout = Shout(word="hey")
    lite.add(shout)
    (found,) = await fetch([adapter.to_ref(shout)])
    assert found.word == "hey"
