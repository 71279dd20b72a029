"""Rows for references: how many queries, which order, whose instances, what failures mean."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from asynctasq import (
    ConfigurationError,
    InvalidReference,
    Ref,
    ReferenceUnavailable,
    class_path,
)
from asynctasq_sqlalchemy import adapter, read_from
from sashop import Account, Base, Country, Item, Membership, Order, Point, Reading, User
from sqlalchemy import event, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession, set_shard_id
from sqlalchemy.orm import ORMExecuteState, selectinload, sessionmaker, with_loader_criteria
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from .stores import Store


def ref(cls: type, pk: Any, *options: Any) -> Ref:
    return Ref(model=class_path(cls), pk=pk, options=options)


async def fetch(*refs: Ref) -> Any:
    return await adapter.fetch_many(refs)


async def test_one_query_brings_all_rows_in_the_order_asked(store: Store) -> None:
    store.add(*(Item(id=n, name=f"item {n}") for n in range(1, 101)))
    wanted = [*range(100, 0, -1), 5000, 7]
    with store.counted() as statements:
        rows = await fetch(*(ref(Item, n) for n in wanted))
    assert [row and row.id for row in rows] == [*range(100, 0, -1), None, 7]
    assert len(statements) == 1


async def test_composite_keys_come_in_one_query_too(store: Store) -> None:
    store.add(*(Membership(organisation=f"org {n % 3}", number=n) for n in range(1, 51)))
    wanted: list[tuple[Any, ...]] = [(f"org {n % 3}", n) for n in range(50, 0, -1)]
    wanted += [("org 9", 1), ("org 0", 1)]
    with store.counted() as statements:
        rows = await fetch(*(ref(Membership, key) for key in wanted))
    assert [row and (row.organisation, row.number) for row in rows] == [*wanted[:50], None, None]
    assert len(statements) == 1


async def test_5000_references_stay_within_the_limits_of_each_database(store: Store) -> None:
    store.add(*(Item(id=n, name="x") for n in range(1, 5001)))
    with store.counted() as statements:
        rows = await fetch(*(ref(Item, n) for n in range(5000, 0, -1)))
    assert [row.id for row in rows] == [*range(5000, 0, -1)]
    assert len(statements) == (6 if store.server == "sqlite" else 1)


async def test_5000_composite_references_too(store: Store) -> None:
    store.add(*(Membership(organisation="org", number=n) for n in range(1, 5001)))
    with store.counted() as statements:
        rows = await fetch(*(ref(Membership, ("org", n)) for n in range(5000, 0, -1)))
    assert [row.number for row in rows] == [*range(5000, 0, -1)]
    assert len(statements) == (12 if store.server == "sqlite" else 1)


async def test_the_same_row_for_two_tasks_is_two_instances_that_share_nothing(lite: Store) -> None:
    lite.add(User(id=1, name="Ann", settings={"a": [1]}, flags={"on": [1]}))
    with lite.counted() as statements:
        first, second, third = await fetch(*[ref(User, 1)] * 3)
    assert len(statements) == 1
    assert len({id(first), id(second), id(third)}) == 3
    first.settings["a"].append(2)
    first.flags["on"].append(2)
    for other in (second, third):
        assert (other.settings, other.flags) == ({"a": [1]}, {"on": [1]})
        assert not inspect(other).modified
        other.flags["new"] = 1
        assert inspect(other).modified
    assert not inspect(first).modified


async def test_declared_loading_brings_related_rows_in_one_more_query(store: Store) -> None:
    store.add(User(id=1, name="Ann", orders=[Order(id=1), Order(id=2)]), User(id=2, name="Bob"))
    options = (selectinload(User.orders),)
    with store.counted() as statements:
        ann, bob = await fetch(ref(User, 1, *options), ref(User, 2, *options))
    assert len(statements) == 2
    assert [o.id for o in ann.orders] == [1, 2]
    assert bob.orders == []


async def test_rows_loaded_along_are_not_shared_by_two_tasks(lite: Store) -> None:
    lite.add(User(id=1, name="Ann", orders=[Order(id=1), Order(id=2), Order(id=3)]))
    option = selectinload(Order.user)
    rows = await fetch(*(ref(Order, n, option) for n in (1, 2, 3)))
    assert len({id(order.user) for order in rows}) == 3
    assert {order.user.name for order in rows} == {"Ann"}


async def test_view_only_relationships_survive_the_copying(lite: Store) -> None:
    lite.add(User(id=1, name="Ann", orders=[Order(id=1, total=500), Order(id=2, total=5)]))
    option = selectinload(User.big_orders)
    first, second = await fetch(*[ref(User, 1, option)] * 2)
    assert [o.id for o in first.big_orders] == [o.id for o in second.big_orders] == [1]
    assert first.big_orders[0] is not second.big_orders[0]


async def test_metadata_that_is_not_ours_is_passed_over(lite: Store) -> None:
    lite.add(Item(id=1, name="x"))
    (row,) = await fetch(ref(Item, 1, "a comment", 5, object()))
    assert row.id == 1


async def test_instances_are_detached_and_the_connection_is_given_back(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(User(id=1, name="Ann"))
    engine = create_async_engine(lite.url, poolclass=AsyncAdaptedQueuePool)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine))
    (user,) = await fetch(ref(User, 1))
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    with pytest.raises(DetachedInstanceError):
        _ = user.orders
    await engine.dispose()


async def test_keys_that_mean_the_same_are_converted(store: Store) -> None:
    store.add(Item(id=5, name="x"), Country(code="12", title="x"))
    account = Account()
    store.add(account)
    (item, other) = await fetch(ref(Item, "5"), ref(Item, 5.0))
    assert (item.id, other.id) == (5, 5)
    (country,) = await fetch(ref(Country, 12))
    assert country.code == "12"
    (found,) = await fetch(ref(Account, str(account.id)))
    assert found.id == account.id


@pytest.mark.parametrize(
    ("cls", "key"),
    [
        (Item, "1; DROP TABLE items"),
        (Item, True),
        (Item, 1.5),
        (Item, float("nan")),
        (Item, float("inf")),
        (Item, None),
        (Item, [1, 2]),
        (Item, {"id": 1}),
        (Item, 2**70),
        (Account, "not a uuid"),
        (Account, 5),
        (Country, b"CH"),
        (Country, ["CH"] * 3),
        (Membership, 5),
        (Membership, ("a", "b")),
        (Membership, ("a", 1, 2)),
        (Reading, "yesterday"),
    ],
)
async def test_a_key_that_cannot_be_of_the_columns_type_is_invalid(
    store: Store, cls: type, key: Any
) -> None:
    if store.server == "mysql" and key == 2**70:
        assert await fetch(ref(cls, key)) == [None]
        return
    with pytest.raises(InvalidReference, match=f"key.*{cls.__name__}"):
        await fetch(ref(cls, key))


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
async def test_text_that_a_database_cannot_hold_is_no_outage(store: Store, text: str) -> None:
    with suppress(InvalidReference):
        assert await fetch(ref(Country, text)) == [None]


async def test_a_stored_key_of_another_case_or_padding_is_found(async_store: Store) -> None:
    if async_store.server != "mysql":
        pytest.skip("compares text exactly")
    async_store.add(Country(code="CH", title="x"))
    with async_store.counted() as statements:
        (row,) = await fetch(ref(Country, "ch"))
    assert row.code == "CH"
    assert len(statements) == 2


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.mark.parametrize(
    "driver", ["postgresql+asyncpg", "postgresql+psycopg", "mysql+aiomysql", "mysql+pymysql"]
)
async def test_a_server_that_is_down_makes_rows_unavailable(
    lite: Store, driver: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asynctasq_sqlalchemy import create_worker_session_factory

    factory = create_worker_session_factory(f"{driver}://u:secret@127.0.0.1:{closed_port}/db")
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    with pytest.raises(ReferenceUnavailable, match="database of Item") as caught:
        await fetch(ref(Item, 1))
    assert "secret" not in str(caught.value)


async def test_a_missing_folder_of_sqlite_makes_rows_unavailable(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine("sqlite+aiosqlite:////nowhere/at/all.db", poolclass=NullPool)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine))
    threads = set(threading.enumerate())
    with pytest.raises(ReferenceUnavailable):
        await fetch(ref(Item, 1))
    # The driver's thread reports to the loop once more after it has failed.
    for thread in set(threading.enumerate()) - threads:
        await asyncio.to_thread(thread.join, 10)


async def test_a_connection_that_the_server_kills_makes_rows_unavailable(
    async_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if async_store.server == "sqlite":
        pytest.skip("has no connections to kill")
    engine = create_async_engine(async_store.url, pool_size=1)
    factory = async_sessionmaker(engine)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    async with factory() as session:
        me = "pg_backend_pid()" if async_store.server == "postgres" else "connection_id()"
        pid = (await session.execute(text(f"SELECT {me}"))).scalar_one()
    with async_store.setup() as session:
        kill = f"SELECT pg_terminate_backend({pid})"
        session.execute(text(kill if async_store.server == "postgres" else f"KILL {pid}"))
    with pytest.raises(ReferenceUnavailable):
        await fetch(ref(Item, 1))
    assert await fetch(ref(Item, 1)) == [None]
    await engine.dispose()


async def test_a_pool_without_a_free_connection_makes_rows_unavailable(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine(
        lite.url, poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    factory = async_sessionmaker(engine)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    async with factory() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(ReferenceUnavailable):
            await fetch(ref(Item, 1))
    await engine.dispose()


async def test_a_missing_table_is_an_ordinary_error(store: Store) -> None:
    with store.setup() as session:
        session.execute(text("ALTER TABLE items RENAME TO other_items"))
        session.commit()
    try:
        with pytest.raises(DBAPIError):
            await fetch(ref(Item, 1))
    finally:
        with store.setup() as session:
            session.execute(text("ALTER TABLE other_items RENAME TO items"))
            session.commit()


async def test_a_model_without_a_factory_says_which_line_to_write(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Base, "_asynctasq_session_factory")
    expected = r"Item has no session factory: set Base\._asynctasq_session_factory = async_session"
    with pytest.raises(ConfigurationError, match=expected):
        await fetch(ref(Item, 1))


async def test_two_bases_have_two_factories(
    lite: Store, postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both stores are open and the latter set its factory; the former takes one base back.
    monkeypatch.setattr(Base, "_asynctasq_session_factory", lite.factory)
    lite.add(Item(id=1, name="x"))
    point = Point(x=1)
    postgres.add(point)
    with lite.counted() as first, postgres.counted() as second:
        (item,) = await fetch(ref(Item, 1))
        (found,) = await fetch(ref(Point, point.id))
    assert (item.name, found.x) == ("x", 1)
    assert any("items" in s for s in first)
    assert any("points" in s for s in second)


async def test_an_annotation_can_name_another_database_to_read_from(
    lite: Store, postgres: Store
) -> None:
    lite.add(Item(id=1, name="replica"))
    postgres.add(Item(id=1, name="primary"))
    (primary,) = await fetch(ref(Item, 1))
    (replica,) = await fetch(ref(Item, 1, read_from(lite.factory)))
    assert (primary.name, replica.name) == ("primary", "replica")


async def test_a_synchronous_factory_does_not_block_the_event_loop(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import create_engine

    lite.add(Item(id=1, name="x"))
    engine = create_engine(lite.url.set(drivername="sqlite"), poolclass=NullPool)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", sessionmaker(engine))
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    @event.listens_for(engine, "before_cursor_execute")
    def wait_for_the_loop(*_: Any) -> None:
        async def turn() -> None:
            reached.set()

        asyncio.run_coroutine_threadsafe(turn(), loop).result(timeout=10)

    (row,) = await fetch(ref(Item, 1))
    assert row.name == "x"
    assert reached.is_set()


def sharded(first: Store, second: Store) -> sessionmaker[ShardedSession]:
    """A factory of sessions over two databases; rows without a shard are looked for in both."""
    engines = {"first": first.setup.kw["bind"], "second": second.setup.kw["bind"]}
    return sessionmaker(
        class_=ShardedSession,
        shards=engines,
        shard_chooser=lambda mapper, instance, clause: "first",
        identity_chooser=lambda *args, **options: list(engines),
        execute_chooser=lambda context: list(engines),
    )


async def test_a_row_of_a_shard_comes_from_its_shard(
    lite: Store, maria: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(Item(id=1, name="in the first"))
    maria.add(Item(id=1, name="in the second"))
    factory = sharded(lite, maria)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    with factory() as session:
        option = set_shard_id("second")
        row = session.scalars(select(Item).options(option)).one()
    reference = adapter.to_ref(row)
    assert reference.db == "second"
    (found,) = await fetch(reference)
    assert found.name == "in the second"
    with pytest.raises(InvalidReference, match="no shard 'third'"):
        await fetch(replace(reference, db="third"))


async def test_a_model_of_one_database_has_no_shards(lite: Store) -> None:
    lite.add(Item(id=1, name="x"))
    with pytest.raises(InvalidReference, match="one database"):
        await fetch(replace(ref(Item, 1), db="elsewhere"))


async def test_a_listener_that_hides_rows_can_let_references_pass(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session(SyncSession):
        """Hides rows whose name says so."""

    @event.listens_for(Session, "do_orm_execute")
    def hide(execution: ORMExecuteState) -> None:
        if not execution.execution_options.get("asynctasq_fetch"):
            criteria = with_loader_criteria(Item, Item.name != "hidden")
            execution.statement = execution.statement.options(criteria)

    lite.add(Item(id=1, name="hidden"))
    factory = sessionmaker(lite.setup.kw["bind"], class_=Session)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    with factory() as session:
        assert session.scalars(select(Item)).all() == []
    (row,) = await fetch(ref(Item, 1))
    assert row.name == "hidden"
