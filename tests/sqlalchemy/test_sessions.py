"""The session of a running task: made when needed, closed at its end, committed by nobody else."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from asynctasq import ConfigurationError, Ref, ReferenceUnavailable, class_path
from asynctasq_sqlalchemy import adapter, for_update, task_session
from sashop import Base, DataBase, Item, Order, Point, User
from sqlalchemy import URL, create_engine, func, select, update
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_object_session,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    Session,
    load_only,
    object_session,
    scoped_session,
    selectinload,
    sessionmaker,
)
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from .stores import Store, open_store


@dataclass
class Message:
    """As much of core's message as the adapter uses."""

    task: str = "shop.work"


def scope(*instances: object) -> AbstractAsyncContextManager[object]:
    entered = adapter.task_scope(Message(), instances)  # type: ignore[arg-type]
    assert entered is not None
    return entered


def ref(cls: type, pk: Any, *options: Any) -> Ref:
    return Ref(model=class_path(cls), pk=pk, options=options)


async def fetch(*refs: Ref) -> Any:
    return await adapter.fetch_many(refs)


async def test_a_task_loads_relationships_and_deferred_columns_of_its_instance(
    async_store: Store,
) -> None:
    async_store.add(User(id=1, name="Ann", orders=[Order(id=1)]))
    (user,) = await fetch(ref(User, 1))
    async with scope(user):
        assert [o.id for o in await user.awaitable_attrs.orders] == [1]
        assert await user.awaitable_attrs.bio == "a bio"
        assert async_object_session(user) is task_session()


async def test_the_session_commits_what_the_task_commits_and_nothing_else(store: Store) -> None:
    store.add(Item(id=1, name="old"), Item(id=2, name="old"))
    first, second = await fetch(ref(Item, 1), ref(Item, 2))
    async with scope(first, second):
        session = task_session()
        assert first in session
        first.name = "new"
        await finish(session.commit)
        second.name = "lost"
        await finish(session.flush)
    with store.setup() as look:
        assert look.scalars(select(Item.name).order_by(Item.id)).all() == ["new", "old"]
    assert object_session(first) is None


async def finish(method: Callable[[], Any]) -> Any:
    result = method()
    return await result if inspect.isawaitable(result) else result


async def test_a_task_that_needs_no_session_makes_none(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(Item(id=1, name="x"), User(id=1, name="Ann"))
    item, user = await fetch(ref(Item, 1)), await fetch(ref(User, 1))
    made: list[AsyncSession] = []

    def factory() -> AsyncSession:
        made.append(lite.factory())
        return made[-1]

    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    with lite.counted() as statements:
        async with scope(*item):
            assert item[0].name == "x"
        assert made == []
        async with scope(*user):
            assert user[0].name == "Ann"
        assert len(made) == 1
        assert statements == []


async def test_no_connection_is_held_before_the_session_is_used(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(User(id=1, name="Ann"))
    engine = create_async_engine(lite.url, poolclass=AsyncAdaptedQueuePool)
    pool: Any = engine.pool
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine))
    (user,) = await fetch(ref(User, 1))
    async with scope(user):
        session = task_session()
        assert pool.checkedout() == 0
        await user.awaitable_attrs.orders
        assert pool.checkedout() == 1
        await session.commit()
        assert pool.checkedout() == 0
        await session.refresh(user)
        assert pool.checkedout() == 1
    assert pool.checkedout() == 0
    await engine.dispose()


@pytest.mark.parametrize("error", [ValueError("boom"), asyncio.CancelledError()])
async def test_the_session_is_closed_whatever_the_task_raises(
    lite: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    lite.add(User(id=1, name="Ann"))
    (user,) = await fetch(ref(User, 1))
    engine = create_async_engine(lite.url, poolclass=AsyncAdaptedQueuePool)
    pool: Any = engine.pool
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine))

    async def run() -> None:
        async with scope(user):
            await user.awaitable_attrs.orders
            raise error

    with pytest.raises(type(error)):
        await run()
    assert pool.checkedout() == 0
    await engine.dispose()


async def test_one_row_loaded_along_with_several_is_one_instance_in_the_task(lite: Store) -> None:
    lite.add(User(id=1, name="Ann", orders=[Order(id=1), Order(id=2)]))
    option = selectinload(Order.user).selectinload(User.orders)
    first, second = await fetch(ref(Order, 1, option), ref(Order, 2, option))
    (ann,) = await fetch(ref(User, 1))
    assert first.user is not second.user
    async with scope(first, second, ann):
        assert first.user is second.user is ann
        assert ann.orders == [first, second]
        with lite.counted() as statements:
            assert await ann.awaitable_attrs.orders == [first, second]
        assert statements == []
        first.user.name = "Zoe"
        await task_session().commit()
    with lite.setup() as look:
        assert look.scalar(select(User.name)) == "Zoe"


async def test_view_only_rows_belong_to_the_session_too(lite: Store) -> None:
    lite.add(User(id=1, name="Ann", orders=[Order(id=1, total=500)]))
    (user,) = await fetch(ref(User, 1, selectinload(User.big_orders)))
    async with scope(user):
        (order,) = user.big_orders
        assert await order.awaitable_attrs.user is user


async def test_partly_loaded_rows_load_the_rest_in_the_task(lite: Store) -> None:
    lite.add(Item(id=1, name="x"))
    (item,) = await fetch(ref(Item, 1, load_only(Item.id)))
    async with scope(item):
        await task_session().refresh(item, ["name"])
        assert item.name == "x"


async def test_two_tasks_at_once_have_sessions_of_their_own(lite: Store) -> None:
    lite.add(User(id=1, name="Ann"))
    rows = await fetch(ref(User, 1), ref(User, 1))
    both = asyncio.Barrier(2)

    async def run(user: User) -> Any:
        async with scope(user):
            await both.wait()
            await user.awaitable_attrs.orders
            session = task_session()
            assert session is task_session()
            await both.wait()
            return session

    first, second = await asyncio.gather(*map(run, rows))
    assert first is not second


async def test_a_synchronous_factory_gives_a_session_for_threads(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(User(id=1, name="Ann", orders=[Order(id=1)]))
    engine = create_engine(lite.url.set(drivername="sqlite"))
    pool: Any = engine.pool
    monkeypatch.setattr(Base, "_asynctasq_session_factory", sessionmaker(engine))
    (user,) = await fetch(ref(User, 1))

    def work() -> str:
        session = task_session()
        assert isinstance(session, Session)
        assert [o.id for o in user.orders] == [1]
        return str(session.scalar(select(func.count(Order.id))))

    async with scope(user):
        assert await asyncio.to_thread(work) == "1"
        assert pool.checkedout() == 1
    assert pool.checkedout() == 0
    engine.dispose()


@pytest.mark.parametrize("wrap", ["function", "lambda", "static", "class", "scoped"])
async def test_anything_that_makes_sessions_is_a_factory(
    lite: Store, monkeypatch: pytest.MonkeyPatch, wrap: str
) -> None:
    def function() -> AsyncSession:
        made: AsyncSession = lite.factory()
        return made

    factories: dict[str, Any] = {
        "function": function,
        "lambda": lambda: lite.factory(),
        "static": staticmethod(function),
        "class": classmethod(lambda cls: lite.factory()),
        "scoped": async_scoped_session(lite.factory, asyncio.current_task),
    }
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factories[wrap])
    lite.add(Item(id=1, name="x"))
    (item,) = await fetch(ref(Item, 1))
    async with scope(item):
        assert item in task_session()
        assert await task_session().scalar(select(func.count(Item.id))) == 1


async def test_a_scoped_session_does_not_leak_its_shared_session(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.add(Item(id=1, name="x"))
    registry = scoped_session(lite.setup)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", registry)
    await fetch(ref(Item, 1))
    async with scope():
        assert task_session(Item) is not registry()
    registry.remove()


@pytest.mark.parametrize(
    "wrong", [lambda store: store.factory(), lambda store: store.engine, lambda store: dict]
)
async def test_what_makes_no_sessions_is_refused(
    lite: Store, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Store], Any]
) -> None:
    monkeypatch.setattr(Base, "_asynctasq_session_factory", wrong(lite))
    with pytest.raises(ConfigurationError, match="must return a new session"):
        await fetch(ref(Item, 1))


async def test_a_coroutine_function_is_no_factory(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def factory() -> AsyncSession:
        raise AssertionError

    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    with pytest.raises(ConfigurationError, match="coroutine"):
        await fetch(ref(Item, 1))


async def test_a_task_without_instances_finds_the_only_factory(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scope():
        assert await task_session().scalar(select(func.count(User.id))) == 0
        assert task_session() is task_session(Base) is task_session(User)
    monkeypatch.setattr(DataBase, "_asynctasq_session_factory", sessionmaker())
    async with scope():
        with pytest.raises(ConfigurationError, match=r"task_session\(User\)"):
            task_session()
        assert isinstance(task_session(Point), Session)


def test_outside_of_a_task_there_is_no_task_session() -> None:
    with pytest.raises(ConfigurationError, match="inside a running task"):
        task_session()


async def test_lost_changes_are_logged(lite: Store, caplog: pytest.LogCaptureFixture) -> None:
    lite.add(Item(id=1, name="x"))
    (item,) = await fetch(ref(Item, 1))
    async with scope(item):
        task_session()
        item.name = item.name
    assert caplog.records == []
    first, second = await fetch(ref(Item, 1), ref(Item, 1))
    async with scope(first):
        task_session()
        first.name = "lost"
    async with scope(second):
        session = task_session()
        second.name = "lost"
        await session.flush()
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert caplog.records[0].__dict__["task"] == "shop.work"


async def _without_session(item: Item) -> None:
    item.name = "lost"


async def _added_and_flushed(item: Item) -> None:
    session = task_session(Item)
    session.add(Item(name="lost"))
    await finish(session.flush)
    gc.collect()


async def _added(item: Item) -> None:
    task_session(Item).add(Item(name="lost"))


async def _deleted_and_flushed(item: Item) -> None:
    session = task_session(Item)
    await finish(lambda: session.delete(item))
    await finish(session.flush)


async def _by_statement(item: Item) -> None:
    await finish(lambda: task_session().execute(update(Item).values(name="lost")))


async def _in_savepoint(item: Item) -> None:
    session = task_session()
    savepoint = await finish(session.begin_nested)
    item.name = "lost"
    await finish(savepoint.commit)


LOSING = [
    _without_session,
    _added,
    _added_and_flushed,
    _deleted_and_flushed,
    _by_statement,
    _in_savepoint,
]


@pytest.mark.parametrize("lose", LOSING)
@pytest.mark.parametrize("driver", ["aiosqlite", "sqlite3"])
async def test_changes_are_logged_however_they_are_lost(
    database_url: Callable[[str], URL],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    driver: str,
    lose: Callable[[Item], Awaitable[None]],
) -> None:
    with open_store(driver, database_url, monkeypatch) as store:
        store.add(Item(id=1, name="x"))
        (item,) = await fetch(ref(Item, 1))
        async with scope(item):
            await lose(item)
        assert [r.message for r in caplog.records if r.name == "asynctasq_sqlalchemy.sessions"] == [
            "the task ended with changes that it did not commit in task_session()"
        ]


async def _committed(item: Item) -> None:
    session = task_session()
    item.name = "kept"
    session.add(Item(id=2, name="kept"))
    await finish(session.commit)


async def _undone(item: Item) -> None:
    session = task_session()
    session.add(Item(id=2, name="undone"))
    await finish(session.flush)
    await finish(session.rollback)


async def _same(item: Item) -> None:
    item.name = item.name


@pytest.mark.parametrize("keep", [_committed, _undone, _same])
async def test_what_is_committed_or_undone_is_not_logged(
    store: Store, caplog: pytest.LogCaptureFixture, keep: Callable[[Item], Awaitable[None]]
) -> None:
    store.add(Item(id=1, name="x"))
    (item,) = await fetch(ref(Item, 1))
    async with scope(item):
        await keep(item)
    assert [r for r in caplog.records if r.name == "asynctasq_sqlalchemy.sessions"] == []


async def lock(number: int, **options: Any) -> Sequence[Any]:
    rows: Sequence[Any] = await fetch(ref(Item, number, for_update(**options)))
    return rows


async def test_a_locked_row_belongs_to_the_task_and_stays_locked_until_it_commits(
    async_store: Store,
) -> None:
    if async_store.server == "sqlite":
        pytest.skip("locks no rows")
    async_store.add(Item(id=1, name="x"), Item(id=2, name="y"))
    async with scope():
        (item,) = await lock(1)
        assert item in task_session()

        async def elsewhere() -> None:
            async with scope():
                with pytest.raises(ReferenceUnavailable):
                    await lock(1, nowait=True)
            async with scope():
                assert await lock(1, skip_locked=True) == [None]
                assert [row.id for row in await lock(2, skip_locked=True)] == [2]

        await asyncio.create_task(elsewhere())
        item.name = "new"
        await task_session().commit()

        async def afterwards() -> None:
            async with scope():
                (fresh,) = await lock(1, nowait=True)
                assert fresh.name == "new"

        await asyncio.create_task(afterwards())


async def test_locking_on_sqlite_loads_the_row_in_the_task(lite: Store) -> None:
    lite.add(Item(id=1, name="x"))
    async with scope():
        (item,) = await lock(1, skip_locked=True)
        assert async_object_session(item) is task_session()


async def test_a_row_that_is_argument_twice_is_one_instance_with_the_lock(lite: Store) -> None:
    lite.add(Item(id=1, name="old"))
    (plain,) = await fetch(ref(Item, 1))
    lite_rename(lite, "new")
    async with scope(plain):
        (locked,) = await lock(1)
        assert locked is plain
        assert plain.name == "new"


def lite_rename(store: Store, name: str) -> None:
    with store.setup() as session:
        session.get_one(Item, 1).name = name
        session.commit()


def test_a_lock_wants_the_tasks_scope() -> None:
    assert ref(Item, 1, for_update()).in_task_scope
    assert not ref(Item, 1, selectinload(User.orders)).in_task_scope


async def test_a_deadlocked_or_slow_lock_leaves_the_row_unavailable(
    maria: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    maria.add(Item(id=1, name="x"))
    engine = create_engine(
        maria.url,
        poolclass=NullPool,
        connect_args={"init_command": "SET innodb_lock_wait_timeout = 1"},
    )
    monkeypatch.setattr(Base, "_asynctasq_session_factory", sessionmaker(engine))
    with maria.setup() as other:
        other.get_one(Item, 1, with_for_update=True)
        async with scope():
            with pytest.raises(ReferenceUnavailable):
                await lock(1)


async def test_a_task_without_session_and_instances_pays_for_few_calls() -> None:
    async with scope():
        pass
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(event) if "call" in event else None)
    async with scope():
        pass
    sys.setprofile(None)
    assert len(calls) < 13  # 10 when this was written, `scope` and `setprofile` among them
