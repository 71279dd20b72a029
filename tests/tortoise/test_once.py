"""The outbox and atomic tasks on Tortoise's databases, with tables that its own schemas make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any
from uuid import uuid4

import asynctasq
import pytest
import tortoise
from asynctasq import Statement, TaskStatus, Worker, dispatch_many, task
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.deadletters import list_dead
from asynctasq.sending import tables
from asynctasq.sending.preparing import prepare
from asynctasq.services.relay import Relay
from asynctasq.tasks.task import registry
from asynctasq_tortoise import adapter, select_for_update
from asynctasq_tortoise.clients import base_client
from asynctasq_tortoise.outbox import databases, own_transaction, run
from tortoise.transactions import in_transaction
from tortoise_shop.models import Order, User

from .conftest import Initialise, Statements, mysql

HAS_SAVEPOINTS = not tortoise.__version__.startswith("0.21")
MODULES = {"models": ["tortoise_shop.models", "asynctasq_tortoise.models"]}
AWAY = "redis://127.0.0.1:1/0"


@pytest.fixture
async def db(url: str, initialise: Initialise) -> str:
    """Tortoise initialised with its tables and core's on an empty database of each kind."""
    await initialise(db_url=url, modules=MODULES)
    return url.partition(":")[0]


@pytest.fixture
async def app(db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """An application with an outbox on the memory broker; its tasks are forgotten afterwards."""
    before = dict(registry)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not others, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"tortoise": adapter}))
    defaults = {"queue": f"once-{uuid4().hex[:8]}", "max_attempts": 1}
    asynctasq.init(driver="memory", outbox=True, task_defaults=defaults)
    yield asynctasq.app.current()
    registry.clear()
    registry.update(before)


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


async def count(table: str, alias: str = "default") -> int:
    rows = await base_client(alias).execute_query_dict(f"SELECT count(*) AS n FROM {table}")
    return int(rows[0]["n"])


async def becomes(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


async def work(app: App, *queues: str) -> None:
    async with asyncio.timeout(50):
        names = queues or (app.config.task_defaults["queue"],)
        await Worker(queues=names, concurrency=10, burst=True).run()


async def errors(app: App) -> list[str]:
    return [letter.error for letter in await list_dead(app.config.task_defaults["queue"])]


async def is_empty() -> bool:
    return await count(tables.OUTBOX) == 0


def greeting() -> Any:
    @task(name=name())
    async def greet(user: User, other: User | None = None) -> None: ...

    return greet


async def new_user(email: str = "a") -> User:
    return await User.create(email=email)


# --- the outbox -------------------------------------------------------------------------


async def test_all_calls_of_a_transaction_are_one_statement_just_before_its_commit(
    app: App, statements: Statements
) -> None:
    greet = greeting()
    async with in_transaction():
        user = await new_user()
        handles = await dispatch_many(greet(user) for _ in range(100))
        handles.append(await greet(user, await new_user("b")).dispatch())
    inserts = [s for s in statements.seen if f"INSERT INTO {tables.OUTBOX}" in s]
    assert len(inserts) == 1
    await becomes(is_empty)
    assert {await handle.status() for handle in handles} == {TaskStatus.WAITING}


async def test_savepoints_and_rollbacks_take_their_rows_along(app: App) -> None:
    greet = greeting()
    lost = None
    async with in_transaction():
        kept = await greet(await new_user()).dispatch()
        if HAS_SAVEPOINTS:
            with suppress(ZeroDivisionError):
                async with in_transaction():
                    lost = await greet(await new_user("b")).dispatch()
                    raise ZeroDivisionError
    with suppress(ZeroDivisionError):
        async with in_transaction():
            gone = await greet(await new_user("c")).dispatch()
            raise ZeroDivisionError
    await becomes(is_empty)
    assert await kept.status() == TaskStatus.WAITING
    assert await gone.status() == TaskStatus.DROPPED
    assert lost is None or await lost.status() == TaskStatus.DROPPED


async def test_a_commit_neither_fails_nor_waits_without_the_broker(app: App) -> None:
    asynctasq.init(redis={"url": AWAY, "timeout": 30.0}, outbox=True)
    greet = greeting()
    async with asyncio.timeout(5), in_transaction():
        await greet(await new_user()).dispatch()
    assert (await count(tables.OUTBOX), await User.all().count()) == (1, 1)


async def test_the_relay_sends_what_a_process_left(app: App) -> None:
    call = greeting()(await new_user())
    message = prepare(call, app.config, app.adapters).outgoing
    for statement in tables.insertion([message]):
        await run(base_client("default"), statement)
    relay = Relay(app.outbox, app.open_broker())
    seen = []
    for _ in range(2):
        await relay.turn()
        seen.append(await count(tables.OUTBOX))
    assert seen == [1, 0]
    assert await call.task.handle(message.id).status() == TaskStatus.WAITING


async def test_a_transaction_of_ours_that_is_cancelled_gives_its_connection_back(db: str) -> None:
    if db == "sqlite":
        pytest.skip("SQLite has one connection, and nothing in SQL to wait for")
    sleep = "SELECT SLEEP(60)" if db == "mysql" else "SELECT pg_sleep(60)"
    database = next(iter(databases()))
    for _ in range(6):  # one more than its pool holds
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05), own_transaction(database) as run_in:
                await run_in(Statement(sleep))
    async with asyncio.timeout(20), own_transaction(database) as run_in:
        assert await run_in(Statement("SELECT 1")) == [(1,)]


# --- atomic tasks -----------------------------------------------------------------------


async def test_writes_dispatches_result_and_end_are_one_commit(app: App) -> None:
    seen: list[Any] = []

    @task(name=name(), queue="once-next")
    async def following(number: int) -> None: ...

    @task(name=name(), atomic=True, result_ttl=60)
    async def write(user: User) -> Order:
        user.email = "zoe"
        await user.save()
        seen.append(await following(7).dispatch())
        return await Order.create(user=user, total=1)

    handle = await write(await new_user()).dispatch()
    await work(app)
    assert await errors(app) == []
    assert (await handle.result(5)).pk == (await Order.get()).pk
    assert (await User.get()).email == "zoe"
    assert await count(tables.DONE) == 1
    await becomes(is_empty)
    assert await seen[0].status() == TaskStatus.WAITING


async def test_what_is_delivered_again_is_not_run_again(app: App) -> None:
    runs: list[int] = []

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> int:
        runs.append(1)
        await Order.create(user=user, total=1)
        return len(runs)

    message = prepare(add(await new_user()), app.config, app.adapters).outgoing
    for _ in range(3):
        await app.open_broker().put([message])
        await work(app)
    assert (len(runs), await Order.all().count()) == (1, 1)
    assert await add.handle(message.id).result(5) == 1


async def test_of_two_runs_at_once_one_commits(app: App, db: str) -> None:
    if db == "sqlite":
        pytest.skip("Tortoise has one transaction at a time on SQLite")
    runs: list[int] = []
    both = asyncio.Barrier(2)

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> int:
        runs.append(1)
        number = len(runs)
        await both.wait()
        await Order.create(user=user, total=1)
        return number

    message = prepare(add(await new_user()), app.config, app.adapters).outgoing
    queues = [message.queue, f"{message.queue}-2"]
    await app.open_broker().put([Outgoing(q, message.id, message.body) for q in queues])
    await work(app, *queues)
    assert (len(runs), await Order.all().count()) == (2, 1)
    results = {await add.handle(message.id, queue).result(5) for queue in queues}
    assert len(results) == 1


@pytest.mark.parametrize("way", ["error", "timeout", "commit"])
async def test_a_run_that_fails_leaves_nothing(app: App, way: str) -> None:
    handles: list[Any] = []

    @task(name=name(), queue="once-next")
    async def following() -> None: ...

    @task(name=name(), atomic=True, timeout=2 if way == "timeout" else None)
    async def add(user: User) -> None:
        await Order.create(user=user, total=1)
        handles.append(await following().dispatch())
        if way == "error":
            raise LookupError("no")
        if way == "timeout":
            await asyncio.Event().wait()
        await tortoise.connections.get("default").commit()

    await add(await new_user()).dispatch()
    await work(app)
    [error] = await errors(app)
    assert {"error": "LookupError", "timeout": "TaskTimeout", "commit": "cannot commit"}[
        way
    ] in error
    assert (await Order.all().count(), await count(tables.DONE)) == (0, 0)
    assert await handles[0].status() == TaskStatus.DROPPED


async def test_locked_rows_are_locked_in_that_transaction(app: App) -> None:
    async def count_up(user: Annotated[User, select_for_update()]) -> None:
        user.email = str(int(user.email) + 1)
        await user.save()

    count_up.__annotations__["user"] = Annotated[User, select_for_update()]
    add = task(name=name(), atomic=True)(count_up)
    user = await new_user("0")
    await dispatch_many(add(user) for _ in range(20))
    await work(app)
    assert await errors(app) == []
    assert ((await User.get()).email, await count(tables.DONE)) == ("20", 20)


async def test_a_deadlock_is_run_again_without_using_up_an_attempt(app: App, db: str) -> None:
    if db == "sqlite":
        pytest.skip("Tortoise has one transaction at a time on SQLite")
    runs: list[int] = []
    both = asyncio.Barrier(2)

    @task(name=name(), atomic=True)
    async def change(first: User, second: User) -> None:
        runs.append(1)
        first.email += "!"
        await first.save()
        if len(runs) <= 2:
            async with asyncio.timeout(10):
                await both.wait()
        second.email += "!"
        await second.save()

    a, b = await new_user("a"), await new_user("b")
    await dispatch_many([change(a, b), change(b, a)])
    await work(app)
    assert await errors(app) == []
    assert [user.email for user in await User.all().order_by("email")] == ["a!!", "b!!"]
    assert (len(runs), await count(tables.DONE)) == (3, 2)


async def test_a_serialization_failure_is_run_again(app: App, db: str, url: str) -> None:
    if db != "mysql":
        pytest.skip("the others say by an SQLSTATE what it is")
    runs: list[int] = []
    table = f"{url.rpartition('/')[2].partition('?')[0]}.{User._meta.db_table}"

    @task(name=name(), atomic=True)
    async def change(user: User) -> None:
        runs.append(1)
        client = User._meta.db
        await client.execute_query("SET SESSION innodb_snapshot_isolation = ON")
        await user.refresh_from_db()
        if len(runs) == 1:
            await asyncio.to_thread(mysql, f"UPDATE {table} SET email = 'b'")
        user.email += "!"
        await user.save()

    await change(await new_user("a")).dispatch()
    await work(app)
    assert await errors(app) == []
    assert ((await User.get()).email, len(runs), await count(tables.DONE)) == ("b!", 2, 1)


@pytest.mark.parametrize("target", [True, User, "default"])
async def test_execute_commits_as_a_worker_does(app: App, target: Any) -> None:
    @task(name=name(), atomic=target)
    async def add(email: str) -> None:
        await User.create(email=email)

    await add("a").execute()
    assert ((await User.get()).email, await count(tables.DONE)) == ("a", 0)
