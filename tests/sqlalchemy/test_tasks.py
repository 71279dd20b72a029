"""Tasks in a real worker: what they are given, what they may do with it, what it costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from asynctasq import (
    Call,
    TaskStatus,
    Worker,
    dispatch_many,
    init,
    schedule,
    schedules,
    task,
)
from asynctasq.deadletters import list_dead
from asynctasq_sqlalchemy import for_update, task_session
from saheroes import Hero, Team
from sashop import Base, Item, Order, User
from sqlalchemy import create_engine, func, insert, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, selectinload, sessionmaker
from sqlmodel import SQLModel

from .stores import Store


@pytest.fixture(autouse=True)
def queue() -> Iterator[str]:
    """The memory broker, with a queue of the test's own."""
    init(driver="memory", task_defaults={"queue": f"sa-{uuid4().hex[:8]}", "max_attempts": 1})
    yield ""
    init(driver="memory")


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


async def work(call: Call[Any], concurrency: int = 10) -> None:
    """Run a worker until the queue of the call is empty; nothing may be dead then."""
    queue = call.queue or call.options(_defaults()).queue
    await Worker(queues=[queue], concurrency=concurrency, burst=True).run()
    assert [letter.traceback for letter in await list_dead(queue)] == []


def _defaults() -> Any:
    from asynctasq.app import current

    return current().config.task_defaults


async def test_lazy_loads_and_writes_of_a_task_use_its_session(async_store: Store) -> None:
    seen: list[object] = []

    @task(name=name())
    async def rename(user: User) -> None:
        orders = await user.awaitable_attrs.orders
        seen.extend(order.id for order in orders)
        user.name = "Zoe"
        await task_session().commit()
        seen.append(user.name)

    user = User(id=1, name="Ann", orders=[Order(id=1), Order(id=2)])
    async_store.add(user)
    await rename(user).dispatch()
    await work(rename(user))
    assert seen == [1, 2, "Zoe"]
    with async_store.setup() as look:
        assert look.scalar(select(User.name)) == "Zoe"


@pytest.mark.parametrize("options", [(selectinload(User.orders),), (for_update(),)])
@pytest.mark.parametrize("place", ["plain", "loaded"])
async def test_a_write_through_any_place_of_a_row_is_kept(
    store: Store, options: tuple[Any, ...], place: str
) -> None:
    async def rename(**places: Any) -> None:
        places[place].name = "Zoe"
        await finish(task_session().commit)

    async def both(plain: User, loaded: User) -> None:
        assert plain is loaded
        await rename(plain=plain, loaded=loaded)

    both.__annotations__["loaded"] = Annotated[(User, *options)]
    called = task(name=name())(both)
    user = User(id=1, name="Ann")
    store.add(user)
    await called(user, user).dispatch()
    await work(called(user, user))
    with store.setup() as look:
        assert look.scalar(select(User.name)) == "Zoe"


async def finish(method: Callable[[], Any]) -> None:
    result = method()
    if result is not None:
        await result


async def test_a_def_task_works_with_a_synchronous_session_in_its_thread(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(lite.url.set(drivername="sqlite"))
    monkeypatch.setattr(Base, "_asynctasq_session_factory", sessionmaker(engine))
    seen: list[object] = []

    @task(name=name())
    def rename(user: User) -> None:
        seen.append(threading.current_thread() is threading.main_thread())
        seen.append([order.id for order in user.orders])
        user.name = "Zoe"
        task_session().commit()
        seen.append(user.name)

    user = User(id=1, name="Ann", orders=[Order(id=1)])
    lite.add(user)
    await rename(user).dispatch()
    await work(rename(user))
    assert seen == [False, [1], "Zoe"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    engine.dispose()


async def test_a_row_in_two_arguments_and_in_a_relationship_is_one_instance(lite: Store) -> None:
    seen: list[bool] = []

    @task(name=name())
    async def compare(
        orders: Annotated[list[Order], selectinload(Order.user)], users: dict[str, User]
    ) -> None:
        first, second = orders
        seen.append(first.user is second.user is users["owner"])

    user = User(id=1, name="Ann", orders=[Order(id=1), Order(id=2)])
    lite.add(user)
    call = compare(list(user.orders), {"owner": user})
    await call.dispatch()
    await work(call)
    assert seen == [True]


async def test_a_lock_in_the_annotation_holds_until_the_task_commits(postgres: Store) -> None:
    seen: list[int] = []

    @task(name=name())
    async def count(item: Annotated[Item, for_update()]) -> None:
        before = int(item.name)
        await asyncio.sleep(0)  # another task would read the same number here
        item.name = str(before + 1)
        await task_session().commit()
        seen.append(before)

    item = Item(id=1, name="0")
    postgres.add(item)
    await dispatch_many([count(item) for _ in range(10)])
    await work(count(item))
    assert sorted(seen) == list(range(10))


async def test_a_dispatch_before_the_commit_is_run_after_it(async_store: Store) -> None:
    seen: list[str] = []

    @task(name=name())
    async def greet(user: User) -> None:
        seen.append(user.name)

    async with async_store.factory() as session:
        user = User(name="Ann")
        session.add(user)
        await session.flush()
        handle = await greet(user).dispatch()
        assert await handle.status() == TaskStatus.UNCOMMITTED
        await work(greet(user).on_commit(False))
        assert seen == []
        await session.commit()
        assert await handle.status() == TaskStatus.WAITING
    await work(greet(user))
    assert seen == ["Ann"]


async def test_a_read_only_session_sends_at_once_and_never_has_to_commit(lite: Store) -> None:
    seen: list[str] = []

    @task(name=name())
    async def greet(user: User) -> None:
        seen.append(user.name)

    lite.add(User(id=1, name="Ann"))
    async with lite.factory() as session:
        user = await session.get(User, 1)
        assert user is not None
        await greet(user=user).dispatch()
    await work(greet(user))
    assert seen == ["Ann"]


async def test_on_commit_takes_a_session(lite: Store) -> None:
    seen: list[int] = []

    @task(name=name())
    async def count(expected: int) -> None:
        seen.append(await task_session(Item).scalar(select(func.count(Item.id))))
        assert seen == [expected]

    async with lite.factory() as session:
        await session.execute(insert(Item), [{"name": "a"}, {"name": "b"}])
        handle = await count(2).on_commit(session).dispatch()
        assert await handle.status() == TaskStatus.UNCOMMITTED
        await session.commit()
    await work(count(2))
    assert seen == [2]


async def test_2000_tasks_with_one_row_each_cost_at_most_one_query_for_50(
    postgres: Store,
) -> None:
    @task(name=name())
    async def read(item: Item) -> None:
        assert item.name

    items = [Item(id=n, name="x") for n in range(1, 2001)]
    postgres.add(*items)
    await dispatch_many([read(item) for item in items])
    with postgres.counted() as statements:
        await work(read(items[0]), concurrency=100)
    assert len([s for s in statements if "FROM items" in s]) <= 40


async def test_after_10000_tasks_the_server_has_as_many_connections_as_before(
    postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine(postgres.url, pool_size=5, max_overflow=5)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine))

    @task(name=name())
    async def read(item: Item, uses_session: bool) -> None:
        if uses_session:
            await task_session().scalar(text("SELECT 1"))

    def connections() -> int:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        with postgres.setup() as session:
            return int(session.scalars(query).one())

    items = [Item(id=n, name="x") for n in range(1, 101)]
    postgres.add(*items)
    before = connections()
    calls = [read(items[n % 100], n % 10 == 0) for n in range(10_000)]
    await dispatch_many(calls)
    await work(calls[0], concurrency=50)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert connections() <= before + 10
    await engine.dispose()
    for _ in range(100):
        if connections() == before:
            break
        await asyncio.sleep(0.05)
    assert connections() == before


async def test_sqlmodel_models_travel_and_load_their_relations(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlmodel.ext.asyncio.session import AsyncSession

    engine = create_async_engine(lite.url)
    factory = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    monkeypatch.setattr(SQLModel, "_asynctasq_session_factory", factory, raising=False)
    tables: list[Any] = [Team.__table__, Hero.__table__]  # type: ignore[attr-defined]
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all, tables)
    seen: list[object] = []

    @task(name=name())
    async def greet(hero: Annotated[Hero, selectinload(Hero.team)]) -> None:
        session = task_session()
        assert isinstance(session, AsyncSession)
        assert hero.team is not None
        seen.append((hero.title, hero.team.title))
        hero.title = "Sir " + hero.title
        await session.commit()

    async with factory() as session:
        hero = Hero(title="Spider", team=Team(title="Insects"))
        session.add(hero)
        await session.commit()
        await greet(hero).dispatch()
    await work(greet(hero))
    assert seen == [("Spider", "Insects")]
    async with factory() as session:
        assert (await session.get_one(Hero, hero.id)).title == "Sir Spider"
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.drop_all, tables)
    await engine.dispose()


def test_sqlmodel_keeps_a_factory_that_a_class_body_sets() -> None:
    from asynctasq_sqlalchemy.factories import find_factory

    factory = sessionmaker()

    class Own(SQLModel):
        _asynctasq_session_factory = factory

    class Child(Own):
        pass

    assert find_factory(Child) is factory


class KeyBase(DeclarativeBase):
    """Of the two models below, in a file of the test's own."""


class Reused(KeyBase):
    __tablename__ = "reused"
    id: Mapped[int] = mapped_column(primary_key=True)


class Numbered(KeyBase):
    __tablename__ = "numbered"
    __table_args__ = {"sqlite_autoincrement": True}
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize(("model", "found"), [(Reused, True), (Numbered, False)])
async def test_sqlite_gives_the_key_of_a_deleted_row_again_unless_told_not_to(
    model: type[Any], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    @task(name=name(), on_missing="none")
    async def look(row: Any) -> None:
        seen.append(row is not None)

    engine = create_engine(f"sqlite:///{tmp_path}/keys.db")
    KeyBase.metadata.create_all(engine)
    factory = sessionmaker(engine, expire_on_commit=False)
    monkeypatch.setattr(KeyBase, "_asynctasq_session_factory", factory, raising=False)
    with factory() as session:
        row = model()
        session.add(row)
        session.commit()
        call = look(row)
        await call.dispatch()
        session.delete(row)
        session.commit()
        session.add(model())
        session.commit()
    await work(call)
    engine.dispose()
    assert seen == [found]


async def test_a_schedule_made_at_runtime_calls_with_a_fresh_row_each_time(
    async_store: Store,
) -> None:
    seen: list[str] = []
    queue = f"sa-{uuid4().hex[:8]}"

    @task(name=name(), queue=queue)
    async def greet(user: User, word: str) -> None:
        seen.append(f"{word} {user.name}")

    async_store.add(user := User(id=7, name="Ann"))
    now = datetime.now(UTC)
    await schedule(greet(user, "hello"), name="greeting", every=timedelta(seconds=1))
    await schedule(greet(user, "goodbye"), name="parting", at=now)
    worker = Worker(queues=[queue])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(40):
        while not {"hello Ann", "goodbye Ann"} <= set(seen):
            await asyncio.sleep(0.02)
    with async_store.setup() as session:
        session.execute(text("UPDATE users SET name = 'Zoe' WHERE id = 7"))
        session.commit()
    async with asyncio.timeout(40):
        while "hello Zoe" not in seen:
            await asyncio.sleep(0.02)
    worker.stop()
    await running
    assert seen.count("goodbye Ann") == 1
    assert [one.name for one in await schedules()] == ["greeting"]
