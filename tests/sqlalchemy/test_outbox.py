"""The outbox: what a transaction dispatched is kept in it, sent after it, and left to the relay."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asynctasq
import pytest
import pytest_asyncio
from asynctasq import Message, TaskStatus, Unique, Worker, dispatch_many, task
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.brokers import Broker, ConsumerOptions, Delivery, Outgoing, WorkerInfo
from asynctasq.sending import handle, tables
from asynctasq.sending.preparing import prepare
from asynctasq.services.relay import Relay
from asynctasq_sqlalchemy import adapter
from asynctasq_sqlalchemy.outbox import run
from sashop import User
from sqlalchemy import text

from .stores import Store

AWAY = "redis://127.0.0.1:1/0"


@task(queue="outbox")
async def greet(user: User) -> None: ...


@pytest_asyncio.fixture
async def outbox(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """An application with an outbox on the memory broker, in this store's database."""
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not Django's, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"sqlalchemy": adapter}))
    with store.setup() as session:
        for statement in tables.creation("mysql" if store.server == "mysql" else _dialect(store)):
            session.execute(text(statement.sql))
        session.execute(text(f"DELETE FROM {tables.OUTBOX}"))
        session.commit()
    asynctasq.init({"driver": "memory", "outbox": True})
    yield asynctasq.app.current()
    if (opened := asynctasq.app.current().outbox) is not None:
        await opened.flush()


@pytest.fixture
def outbox_tables(lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables, in the SQLite database."""
    monkeypatch.setattr(asynctasq.app, "_current", None)
    with lite.setup() as session:
        for statement in tables.creation("sqlite"):
            session.execute(text(statement.sql))
        session.execute(text(f"DELETE FROM {tables.OUTBOX}"))
        session.commit()


def _dialect(store: Store) -> Any:
    return {"postgres": "postgresql", "sqlite": "sqlite"}[store.server]


def rows(store: Store) -> int:
    with store.setup() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {tables.OUTBOX}")).scalar_one())


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Any]:
    """A session of the store, its methods awaitable whichever kind it is."""
    session = store.factory()
    try:
        yield session
    finally:
        await _done(session.close())


async def _done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def becomes(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await _done(condition()):
            await asyncio.sleep(0.01)


async def waiting(broker: Broker) -> int:
    return sum(s.waiting for s in await broker.stats() if s.name == "outbox")


async def test_a_commit_is_sent_and_its_rows_are_deleted(store: Store, outbox: App) -> None:
    async with opened(store) as session:
        users = [User(name=str(n)) for n in range(3)]
        session.add_all(users)
        await _done(session.flush())
        with store.counted() as statements:
            handles = [await greet(user).dispatch() for user in users]
            assert rows(store) == 0
            await _done(session.commit())
        inserts = [s for s in statements if tables.OUTBOX in s and s.startswith("INSERT")]
        assert len(inserts) == 1
    await becomes(lambda: rows(store) == 0)
    assert await waiting(outbox.open_broker()) == 3
    assert {await handle.status() for handle in handles} == {TaskStatus.WAITING}


async def test_a_rollback_and_a_savepoint_take_their_rows_along(store: Store, outbox: App) -> None:
    async with opened(store) as session:
        user = User(name="a")
        session.add(user)
        await _done(session.flush())
        kept = await greet(user).dispatch()
        savepoint = await _done(session.begin_nested())
        dropped = await greet(user).on_commit(session).dispatch()
        await _done(savepoint.rollback())
        await _done(session.commit())
        gone = User(name="b")
        session.add(gone)
        await _done(session.flush())
        rolled_back = await greet(gone).dispatch()
        await _done(session.rollback())
    await becomes(lambda: rows(store) == 0)
    assert await waiting(outbox.open_broker()) == 1
    statuses = [await handle.status() for handle in (kept, dropped, rolled_back)]
    assert statuses == [TaskStatus.WAITING, TaskStatus.DROPPED, TaskStatus.DROPPED]


async def test_many_calls_of_one_transaction_are_one_statement(store: Store, outbox: App) -> None:
    async with opened(store) as session:
        user = User(name="a")
        session.add(user)
        await _done(session.flush())
        with store.counted() as statements:
            await dispatch_many(greet(user) for _ in range(1000))
            await _done(session.commit())
        assert sum(s.startswith("INSERT") for s in statements) == 1
    await becomes(lambda: rows(store) == 0)
    assert await waiting(outbox.open_broker()) == 1000


async def test_a_commit_neither_fails_nor_waits_without_the_broker(
    store: Store, outbox: App, caplog: pytest.LogCaptureFixture
) -> None:
    asynctasq.init({"redis": {"url": AWAY, "timeout": 10.0}, "outbox": True})
    async with opened(store) as session:
        user = User(name="a")
        session.add(user)
        await _done(session.flush())
        handle = await greet(user).dispatch()
        async with asyncio.timeout(5):
            await _done(session.commit())
    assert rows(store) == 1
    assert user.id is not None
    assert handle.id


async def test_the_relay_sends_what_a_process_left(store: Store, outbox: App) -> None:
    with store.setup() as session:
        user = User(name="a")
        session.add(user)
        session.flush()
        connection = session.connection()
        ids = []
        for _ in range(5):
            call = greet(user).on_commit(False)
            outgoing = prepare(call, outbox.config, outbox.adapters).outgoing
            ids.append(outgoing.id)
            for statement in tables.insertion([outgoing]):
                run(connection, statement)
        session.commit()
    assert await greet.handle(ids[0]).status() is TaskStatus.UNCOMMITTED
    assert outbox.outbox is not None
    relay = Relay(outbox.outbox, outbox.open_broker())
    await relay.turn()
    assert rows(store) == 5  # the process that dispatched them has its time
    await relay.turn()
    assert rows(store) == 0
    assert await waiting(outbox.open_broker()) == 5


@task(queue="outbox", unique=Unique(by="user"))
async def welcome(user: User, text: str = "") -> None: ...


@task(queue="outbox", unique=Unique(by="user", on_conflict="replace"))
async def remind(user: User, text: str = "") -> None: ...


async def test_a_conflict_is_decided_when_the_outbox_sends(store: Store, outbox: App) -> None:
    """Two transactions that know nothing of each other dispatch the same call."""
    with store.setup() as session:
        session.add(user := User(name="a"))
        session.commit()
    async with opened(store) as one, opened(store) as other:
        mine, its = await _done(one.get(User, user.id)), await _done(other.get(User, user.id))
        first = await welcome(mine).on_commit(one).dispatch()
        second = await welcome(its).on_commit(other).dispatch()
        assert first.id != second.id
        await _done(one.commit())
        await becomes(lambda: rows(store) == 0)
        await _done(other.commit())
    await becomes(lambda: rows(store) == 0)
    assert not first.is_existing
    assert second.is_existing
    assert second.id == first.id
    assert await waiting(outbox.open_broker()) == 1


async def test_a_rolled_back_call_in_the_outbox_takes_no_key(store: Store, outbox: App) -> None:
    async with opened(store) as session:
        user = User(name="a")
        session.add(user)
        await _done(session.flush())
        dropped = await welcome(user).dispatch()
        await _done(session.rollback())
        session.add(again := User(name="a"))
        await _done(session.flush())
        kept = await welcome(again).dispatch()
        await _done(session.commit())
    await becomes(lambda: rows(store) == 0)
    assert not kept.is_existing
    assert kept.id != dropped.id
    assert await waiting(outbox.open_broker()) == 1


@pytest.mark.parametrize("called", [welcome, remind], ids=["keep", "replace"])
async def test_the_relay_sends_of_equal_calls_one(store: Store, outbox: App, called: Any) -> None:
    with store.setup() as session:
        user = User(name="a")
        session.add(user)
        session.flush()
        connection = session.connection()
        texts = {}
        for n in range(5):
            call = called(user, f"text {n}").on_commit(False)
            outgoing = prepare(call, outbox.config, outbox.adapters).outgoing
            texts[outgoing.id] = f"text {n}".encode()
            for statement in tables.insertion([outgoing]):
                run(connection, statement)
        session.commit()
    assert outbox.outbox is not None
    relay = Relay(outbox.outbox, outbox.open_broker())
    await relay.turn()
    await relay.turn()
    assert rows(store) == 0
    assert await waiting(outbox.open_broker()) == 1
    [delivery] = await take(outbox.open_broker())
    decisive = max(texts) if called is remind else min(texts)  # in the order of their ids
    assert texts[decisive] in Message.decode(delivery.body).payload


async def take(broker: Broker) -> list[Delivery]:
    info = WorkerInfo("w", "host", 1, ("outbox",), 10, 0.0)
    consumer = broker.consumer(ConsumerOptions(info, ("outbox",)))
    await consumer.start()
    return await consumer.take(10, 5)


@task(queue="outbox", result_ttl=60)
async def double(number: int) -> int:
    return 2 * number


async def test_a_result_is_waited_for_while_only_the_outbox_holds_the_call(
    lite: Store, outbox_tables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"sqlalchemy": adapter}))
    monkeypatch.setattr(handle, "_FIRST_SECONDS", 0.05)
    asynctasq.init({"driver": "memory", "outbox": True})
    app = asynctasq.app.current()
    outgoing = prepare(double(21), app.config, app.adapters).outgoing
    with lite.setup() as session:
        for statement in tables.insertion([outgoing]):
            run(session.connection(), statement)
        session.commit()
    looks: list[str] = []
    holds = app.outbox.holds

    async def noted(message_id: str) -> bool | None:
        looks.append(message_id)
        return await holds(message_id)

    monkeypatch.setattr(app.outbox, "holds", noted)
    waiting_for = asyncio.create_task(double.handle(outgoing.id, "outbox").result())
    await becomes(lambda: looks)
    relay = Relay(app.outbox, app.open_broker())
    for _ in range(2):
        await relay.turn()
    await Worker(queues=["outbox"], burst=True).run()
    async with asyncio.timeout(20):
        assert await waiting_for == 42


async def test_a_call_with_several_new_rows_is_kept_once(store: Store, outbox: App) -> None:
    async with opened(store) as session:
        users = [User(name=str(n)) for n in range(2)]
        session.add_all(users)
        await _done(session.flush())
        handle = await both(*users).dispatch()
        with store.counted() as statements:
            await _done(session.commit())
    assert sum(s.startswith(f"INSERT INTO {tables.OUTBOX}") for s in statements) == 1
    await becomes(lambda: rows(store) == 0)
    assert await handle.status() is TaskStatus.WAITING
    assert await waiting(outbox.open_broker()) == 1


@task(queue="outbox")
async def both(one: User, other: User) -> None: ...


def test_statements_are_bounded_by_bytes() -> None:
    messages = [Outgoing("q", str(n), b"x" * 1_500_000) for n in range(5)]
    sizes = [len(statement.parameters) // 3 for statement in tables.insertion(messages)]
    assert sizes == [2, 2, 1]


PROGRAM = """
import asyncio, sys
sys.path.insert(0, {project!r})
import asynctasq
from sashop import Base, User
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

asynctasq.init(sqlite={queue!r}, outbox=True)

@asynctasq.task
async def greet(user: User) -> None: ...

async def on_loop() -> None:
    engine = create_async_engine("sqlite+aiosqlite:///" + {database!r})
    Base._asynctasq_session_factory = async_sessionmaker(engine)
    async with Base._asynctasq_session_factory() as session:
        session.add(user := User(name="a"))
        await session.flush()
        await greet(user).dispatch()
        await session.commit()
    await engine.dispose()

def in_thread() -> None:
    Base._asynctasq_session_factory = sessionmaker(create_engine("sqlite:///" + {database!r}))
    with Base._asynctasq_session_factory() as session:
        session.add(user := User(name="a"))
        session.flush()
        greet(user).dispatch_sync()
        session.commit()

asyncio.run(on_loop()) if {is_async} else in_thread()
"""


@pytest.mark.parametrize("is_async", [True, False])
def test_a_program_that_ends_after_its_commit_leaves_nothing_in_the_outbox(
    lite: Store, outbox_tables: None, tmp_path: Path, is_async: bool
) -> None:
    project = Path(__file__).parent / "project"
    queue = tmp_path / "queue.db"
    code = PROGRAM.format(
        project=str(project), queue=str(queue), database=lite.url.database, is_async=is_async
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(lite) == 0
    asynctasq.init(sqlite=str(queue))

    async def count() -> int:
        return sum(s.waiting for s in await asynctasq.app.current().open_broker().stats())

    assert asyncio.run(count()) == 1
