"""Engines: made for workers, disposed when a worker stops, never shared by forked processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asynctasq import ConfigurationError, Ref, class_path
from asynctasq_sqlalchemy import adapter, create_worker_session_factory
from sashop import Base, Item
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, StaticPool

from .stores import Store

FORK = multiprocessing.get_context("fork")


def engine_of(factory: Any) -> Any:
    return factory.kw["bind"]


@pytest.fixture(autouse=True)
def no_engine_is_owned() -> Iterator[None]:
    yield
    adapter.configure({})


@pytest.mark.parametrize(
    ("url", "session_class", "engine_class"),
    [
        ("postgresql+asyncpg://u:p@localhost/db", AsyncSession, AsyncEngine),
        ("postgresql+psycopg://u:p@localhost/db", AsyncSession, AsyncEngine),
        ("mysql+aiomysql://u:p@localhost/db", AsyncSession, AsyncEngine),
        ("mysql+pymysql://u:p@localhost/db", Session, Engine),
        ("sqlite+aiosqlite:///file.db", AsyncSession, AsyncEngine),
        ("sqlite:///file.db", Session, Engine),
    ],
)
def test_the_driver_decides_between_async_and_sync_sessions(
    url: str, session_class: type, engine_class: type
) -> None:
    factory = create_worker_session_factory(url, pool_pre_ping=True)
    assert isinstance(engine_of(factory), engine_class)
    assert isinstance(engine_of(factory).pool, NullPool)
    assert isinstance(factory(), session_class)
    session: Any = factory()
    assert not getattr(session, "sync_session", session).expire_on_commit


def test_the_session_class_decides_for_a_driver_that_can_both() -> None:
    factory = create_worker_session_factory("postgresql+psycopg://localhost/db", class_=Session)
    assert isinstance(factory(), Session)
    assert isinstance(engine_of(factory), Engine)


def test_pool_options_choose_a_pool() -> None:
    factory = create_worker_session_factory("postgresql+asyncpg://localhost/db", pool_size=3)
    assert isinstance(engine_of(factory).pool, AsyncAdaptedQueuePool)
    assert engine_of(factory).pool.size() == 3
    factory = create_worker_session_factory("sqlite:///x.db", poolclass=QueuePool, pool_recycle=60)
    assert type(engine_of(factory).pool) is QueuePool


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
async def test_a_database_in_memory_keeps_its_one_connection(url: str) -> None:
    factory = create_worker_session_factory(url)
    assert isinstance(engine_of(factory).pool, StaticPool)
    async with factory() as session:
        await session.execute(text("CREATE TABLE t (x int)"))
        await session.commit()
    await adapter.worker_stopped()
    async with factory() as session:
        assert await session.scalar(text("SELECT count(*) FROM t")) == 0
    await engine_of(factory).dispose()


def test_session_options_reach_the_sessions() -> None:
    class Own(AsyncSession):
        pass

    factory = create_worker_session_factory(
        "sqlite+aiosqlite:///x.db",
        class_=Own,
        expire_on_commit=True,
        autoflush=False,
        info={"a": 1},
        echo=True,
    )
    session = factory()
    assert isinstance(session, Own)
    assert (session.sync_session.expire_on_commit, session.sync_session.autoflush) == (True, False)
    assert session.info == {"a": 1}
    assert engine_of(factory).echo is True


def test_both_packages_offer_the_name() -> None:
    assert adapter.lazy_names()["create_worker_session_factory"] == (
        "asynctasq_sqlalchemy:create_worker_session_factory"
    )


def pids(store: Store) -> set[int]:
    """Server processes that serve this run's database, the one that asks left out."""
    with store.setup() as session:
        query = text(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return set(session.scalars(query))


@pytest.mark.parametrize("several", [False, True])
async def test_the_given_engine_is_disposed_when_the_worker_stops(
    postgres: Store, several: bool
) -> None:
    before = pids(postgres)
    engine = create_async_engine(postgres.url)
    other = create_engine(postgres.setup.kw["bind"].url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    with other.connect() as sync_connection:
        sync_connection.execute(text("SELECT 1"))
    assert len(pids(postgres) - before) == 2
    adapter.configure({"sqlalchemy_engine": [engine, other] if several else engine})
    await adapter.worker_stopped()
    assert len(await settled(lambda: pids(postgres) - before, 0 if several else 1)) == (
        0 if several else 1
    )
    other.dispose()


def test_the_given_engine_is_disposed_with_each_event_loop_that_used_it(postgres: Store) -> None:
    engine = create_async_engine(postgres.url)
    adapter.configure({"sqlalchemy_engine": engine})

    async def use() -> int:
        async with engine.connect() as connection:
            return int(await connection.scalar(text("SELECT pg_backend_pid()")))

    used = {asyncio.run(use()), asyncio.run(use())}
    assert len(used) == 2
    assert asyncio.run(settled(lambda: pids(postgres) & used, 0)) == set()


PROGRAM = """
import asynctasq
from sqlalchemy import QueuePool, create_engine, event, text

engine = create_engine("sqlite:///program.db", poolclass=QueuePool)
event.listen(engine, "close", lambda *_: print("closed"))
asynctasq.init(sqlalchemy_engine=engine)
with engine.connect() as connection:
    connection.execute(text("SELECT 1"))
print("end")
"""


def test_a_given_synchronous_engine_is_disposed_when_the_program_ends(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["end", "closed"]


async def settled(look: Callable[[], set[int]], size: int) -> set[int]:
    """Look until there are so few: a server notices the end of a connection in its own time."""
    for _ in range(200):
        if len(look()) <= size:
            break
        await asyncio.sleep(0.02)
    return look()


async def test_a_pool_of_a_worker_factory_is_closed_when_the_worker_stops(postgres: Store) -> None:
    before = pids(postgres)
    factory = create_worker_session_factory(postgres.url, pool_size=2)
    async with factory() as session:
        await session.execute(text("SELECT 1"))
    assert len(pids(postgres) - before) == 1
    await adapter.worker_stopped()
    assert await settled(lambda: pids(postgres) - before, 0) == set()


@pytest.mark.parametrize("wrong", ["postgresql://", object(), [1]])
def test_something_else_than_an_engine_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="sqlalchemy_engine takes an engine"):
        adapter.configure({"sqlalchemy_engine": wrong})


def backend(engine: Engine, answers: Any) -> None:
    """In a child: which server process answers, or why none does."""
    try:
        with engine.connect() as connection:
            answers.put(connection.scalar(text("SELECT pg_backend_pid()")))
    except Exception as e:  # noqa: BLE001 - the parent asserts on it
        answers.put(f"{type(e).__name__}: {e}")


def in_child(work: Callable[..., None], *args: Any) -> Any:
    answers = FORK.Queue()
    child = FORK.Process(target=work, args=(*args, answers))
    child.start()
    answer = answers.get(timeout=30)
    child.join(30)
    assert child.exitcode == 0
    return answer


def guard(engine: Engine) -> None:
    """The listeners of the specification's example, as written there."""

    @event.listens_for(engine, "connect")
    def receive_connect(dbapi_conn: Any, connection_record: Any) -> None:
        connection_record.info["pid"] = os.getpid()

    @event.listens_for(engine, "checkout")
    def receive_checkout(dbapi_conn: Any, connection_record: Any, connection_proxy: Any) -> None:
        pid = os.getpid()
        if connection_record.info["pid"] != pid:
            connection_record.dbapi_connection = connection_proxy.dbapi_connection = None
            raise Exception(
                f"Connection record belongs to pid {connection_record.info['pid']}, "
                f"attempting to check out in pid {pid}"
            )


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_connects_anew_and_leaves_the_parents_connection_alone(
    postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(postgres.setup.kw["bind"].url)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", sessionmaker(engine))
    guard(engine)
    with engine.connect() as connection:
        mine = connection.scalar(text("SELECT pg_backend_pid()"))
    theirs = in_child(backend, engine)
    assert isinstance(theirs, int), theirs
    assert theirs != mine
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == mine
    engine.dispose()


def fetch_item(answers: Any) -> None:
    """In a child, on a loop of its own: a row through the model's inherited factory."""

    async def fetch() -> Any:
        (row,) = await adapter.fetch_many([Ref(model=class_path(Item), pk=1)])
        return row

    try:
        answers.put(asyncio.run(fetch()).name)
    except Exception as e:  # noqa: BLE001 - the parent asserts on it
        answers.put(f"{type(e).__name__}: {e}")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_pooled_async_engine_survives_a_fork(
    postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.add(Item(id=1, name="x"))
    engine = create_async_engine(postgres.url)
    guard(engine.sync_engine)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine))

    async def my_pid() -> Any:
        async with engine.connect() as connection:
            return await connection.scalar(text("SELECT pg_backend_pid()"))

    with asyncio.Runner() as runner:
        mine = runner.run(my_pid())
        assert in_child(fetch_item) == "x"
        assert runner.run(my_pid()) == mine
        runner.run(engine.dispose())
