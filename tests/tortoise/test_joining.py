"""Queues in Tortoise's own PostgreSQL: its transactions dispatch, and settle atomic tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asynctasq
import pytest
import tortoise
from asynctasq import TaskStatus, Unique, Worker, dispatch_many, task
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.deadletters import list_dead
from asynctasq.tasks.task import registry
from asynctasq_tortoise import adapter
from tortoise.transactions import in_transaction
from tortoise_shop.models import User

from .conftest import Initialise, Statements, make_database

HAS_SAVEPOINTS = not tortoise.__version__.startswith("0.21")
DROPPED, UNCOMMITTED, WAITING = TaskStatus.DROPPED, TaskStatus.UNCOMMITTED, TaskStatus.WAITING


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, by each driver of PostgreSQL."""
    yield from make_database(request.param, tmp_path)


@pytest.fixture
async def app(
    url: str, initialise: Initialise, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:
    """An application with its queues in Tortoise's database."""
    await initialise(db_url=url)
    before = dict(registry)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not others, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"tortoise": adapter}))
    config = {"url": "postgresql" + url[url.index(":") :], "poll_interval": 20}
    defaults = {"queue": f"joined-{uuid4().hex[:8]}", "max_attempts": 1}
    asynctasq.init(driver="postgres", postgres=config, task_defaults=defaults)
    made = asynctasq.app.current()
    yield made
    await made.connections.close()
    registry.clear()
    registry.update(before)


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


def greeting(**options: Any) -> Any:
    @task(name=name(), **options)
    async def greet(user: User) -> None: ...

    return greet


async def new_user(email: str = "a") -> User:
    return await User.create(email=email)


async def work(app: App) -> None:
    queue = app.config.task_defaults["queue"]
    async with asyncio.timeout(50):
        await Worker(queues=(queue,), concurrency=10, burst=True).run()
    assert [letter.error for letter in await list_dead(queue)] == []


async def test_a_dispatch_is_one_statement_of_the_transaction_just_before_its_commit(
    app: App, statements: Statements
) -> None:
    greet = greeting()
    async with in_transaction():
        first = await greet(await new_user()).dispatch()
        assert await first.status() == UNCOMMITTED
        assert await app.open_broker().state(first.queue, first.id) is None
    assert await first.status() == WAITING
    async with in_transaction():
        user = await new_user()
        statements.seen.clear()
        handles = await dispatch_many(greet(user) for _ in range(1000))
    puts = [s for s in statements.seen if "put_in_transaction" in s]
    assert len(puts) == 1
    assert {await handle.status() for handle in handles[::100]} == {WAITING}


async def test_rollbacks_take_their_messages_along(app: App) -> None:
    greet = greeting()
    lost = []
    async with in_transaction():
        kept = await greet(await new_user()).dispatch()
        if HAS_SAVEPOINTS:
            with suppress(ZeroDivisionError):
                async with in_transaction():
                    lost.append(await greet(await new_user("b")).dispatch())
                    raise ZeroDivisionError
    with suppress(ZeroDivisionError):
        async with in_transaction():
            lost.append(await greet(await new_user("c")).dispatch())
            raise ZeroDivisionError
    assert await kept.status() == WAITING
    assert {await handle.status() for handle in lost} == {DROPPED}


async def test_a_unique_key_is_taken_with_the_commit(app: App) -> None:
    greet = greeting(unique=Unique(by=lambda user: "same"))
    async with in_transaction():
        first = await greet(await new_user()).dispatch()
    async with in_transaction():
        second = await greet(await new_user("b")).dispatch()
    assert (second.id, second.is_existing) == (first.id, True)


async def test_an_atomic_task_is_settled_in_its_own_transaction(
    app: App, statements: Statements
) -> None:
    following = greeting()

    @task(name=name(), atomic=True, result_ttl=60)
    async def run(user: User) -> str:
        await User.create(email="new")
        await following(user).dispatch()
        return "made"

    handle = await run(await new_user()).dispatch()
    statements.seen.clear()
    await work(app)
    assert await handle.result(5) == "made"
    assert await User.filter(email="new").count() == 1
    assert sum("settle_in_transaction" in s for s in statements.seen) == 1
    assert not any("INTO asynctasq_" in s for s in statements.seen)
