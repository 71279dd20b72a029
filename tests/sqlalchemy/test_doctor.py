"""What `asynctasq doctor` finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asynctasq import Finding
from asynctasq_sqlalchemy import adapter, create_worker_session_factory
from sashop import Base, DataBase
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool

from .stores import Store


@pytest.fixture(autouse=True)
def no_engine_is_owned() -> Iterator[None]:
    yield
    adapter.configure({})


async def findings(level: str) -> list[Finding]:
    ours = ("shop", "Account", "Point", "asynctasq_sa_")
    return [
        f
        for f in await adapter.check()
        if f.level == level and any(o in f.subject + f.text for o in ours)
    ]


async def test_a_worker_factory_has_nothing_to_complain_of(store: Store) -> None:
    assert await findings("warning") == []
    assert await findings("error") == []
    texts = " ".join(f.text for f in await findings("ok"))
    assert "answered within" in texts
    assert "NullPool" in texts
    assert "readable after a commit" in texts


@pytest.mark.parametrize("is_async", [True, False])
async def test_each_line_of_the_checklist_is_looked_at(
    postgres: Store, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    engine: Any
    factory: Any
    if is_async:
        engine = create_async_engine(postgres.url)
        factory = async_sessionmaker(engine)
    else:
        engine = create_engine(postgres.url.set(drivername="postgresql+psycopg"))
        factory = sessionmaker(engine)
    for base in (Base, DataBase):
        monkeypatch.setattr(base, "_asynctasq_session_factory", factory)
    adapter.configure({"sqlalchemy_engine": engine})
    advice = " ".join(f.advice for f in await findings("warning"))
    for setting in (
        "expire_on_commit=False",
        "pool_pre_ping=True",
        "pool_recycle=3600",
        "create_worker_session_factory(url) (NullPool)",
        "an engine of their own",
    ):
        assert setting in advice
    figures = " ".join(f.text for f in await findings("ok"))
    assert "pool of 5 and 10 more; a session waits 30 s for a connection" in figures
    await adapter.worker_stopped()


@pytest.mark.parametrize("server", ["postgres", "maria"])
async def test_connections_of_all_processes_are_counted(
    request: pytest.FixtureRequest, server: str
) -> None:
    store: Store = request.getfixturevalue(server)
    with store.setup() as session, store.setup() as other:
        session.connection()
        other.connection()
        (told,) = [f.text for f in await findings("ok") if "connections in use" in f.text]
    used, allowed = (int(word) for word in told.split() if word.isdigit())
    assert 3 <= used < allowed  # with that of the doctor


async def test_a_well_set_pool_only_has_its_size_pointed_out(
    postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = create_worker_session_factory(
        postgres.url,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=3,
        max_overflow=1,
        pool_pre_ping=True,
        pool_recycle=3600,
    )
    for base in (Base, DataBase):
        monkeypatch.setattr(base, "_asynctasq_session_factory", factory)
    (warning,) = await findings("warning")
    assert "up to 4 connections" in warning.text
    await adapter.worker_stopped()


async def test_a_pool_of_sqlite_is_not_measured_by_the_rules_for_servers(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine(lite.url, poolclass=AsyncAdaptedQueuePool)
    factory = async_sessionmaker(engine, expire_on_commit=False)
    for base in (Base, DataBase):
        monkeypatch.setattr(base, "_asynctasq_session_factory", factory)
    assert await findings("warning") == []
    assert "pool of 5 and 10 more" in " ".join(f.text for f in await findings("ok"))
    await engine.dispose()


async def test_an_unreachable_database_is_an_error_without_its_credentials(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = create_worker_session_factory("postgresql+asyncpg://bob:secret@127.0.0.1:1/shop")
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory)
    (error,) = await findings("error")
    assert "did not answer" in error.text
    assert error.advice
    assert "secret" not in repr(error)
    assert "bob" not in repr(error)


async def test_a_factory_that_makes_no_sessions_is_an_error(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Base, "_asynctasq_session_factory", lite.engine)
    (error,) = [f for f in await adapter.check() if f.level == "error"]
    assert "session factory" in error.subject


async def test_models_without_a_factory_are_named(
    lite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DataBase, "_asynctasq_session_factory")
    (warning,) = [f for f in await adapter.check() if f.subject == "models of DataBase"]
    assert warning.text == "no session factory for Point"
    assert "DataBase._asynctasq_session_factory" in warning.advice
