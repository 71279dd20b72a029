"""Queues in the application's own PostgreSQL: its transactions dispatch and settle."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asynctasq
import pytest
import pytest_asyncio
import saatomic
from asynctasq import (
    Limit,
    TaskHandle,
    TaskStatus,
    Unique,
    Worker,
    dispatch_many,
    task,
)
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.deadletters import list_dead
from asynctasq.sending import tables
from asynctasq.services.backlog import backlogs
from asynctasq.tasks.task import registry
from asynctasq_sqlalchemy import adapter, task_session
from sashop import Item, User
from sqlalchemy import inspect as inspect_tables
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ..servers import postgres_database
from .stores import Store, open_store

# Only the test of processes has it: where another adapter is in use, no worker could run it.
registry.pop(saatomic.add.name, None)

DONE, DROPPED, WAITING = TaskStatus.DONE, TaskStatus.DROPPED, TaskStatus.WAITING
DRIVERS = ["asyncpg", "psycopg", "psycopg-sync"]


@pytest.fixture(params=DRIVERS)
def joined(
    request: pytest.FixtureRequest, database_url: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """Each driver of PostgreSQL, without the tables that other tests make of this database."""
    with open_store(request.param, database_url, monkeypatch) as opened:
        with opened.setup() as session:
            session.execute(text(f"DROP TABLE IF EXISTS {tables.OUTBOX}, {tables.DONE}"))
            session.commit()
        yield opened


def plain(store: Store) -> str:
    return store.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest_asyncio.fixture
async def app(joined: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """An application with its queues in the database of its rows, in a schema of the test's own."""
    schema = f"test_{uuid4().hex[:12]}"
    async with application(monkeypatch, plain(joined), schema) as made:
        yield made
    with joined.setup() as session:
        session.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        session.commit()


@asynccontextmanager
async def application(
    monkeypatch: pytest.MonkeyPatch, url: str, schema: str, **options: Any
) -> AsyncIterator[App]:
    before = dict(registry)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not Django's, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"sqlalchemy": adapter}))
    config = {"url": url, "schema": schema, "poll_interval": 20}
    defaults = {"queue": f"joined-{uuid4().hex[:8]}", "max_attempts": 1}
    asynctasq.init(postgres=config, driver="postgres", task_defaults=defaults, **options)
    made = asynctasq.app.current()
    yield made
    made.connections.leave_portal()
    await made.connections.close()
    registry.clear()
    registry.update(before)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Any]:
    session = store.factory()
    try:
        yield session
    finally:
        await done(session.close())


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


def greeting(**options: Any) -> Any:
    @task(name=name(), **options)
    async def greet(user: User) -> None: ...

    return greet


async def new_user(session: Any, **values: Any) -> User:
    user = User(**{"name": "a", **values})
    session.add(user)
    await done(session.flush())
    return user


async def held(app: App, handle: TaskHandle[Any]) -> str | None:
    """Where the broker, on a connection of its own, sees the call."""
    return await app.open_broker().state(handle.queue, handle.id)


async def work(app: App) -> None:
    async with asyncio.timeout(50):
        queues = (app.config.task_defaults["queue"],)
        await Worker(queues=queues, concurrency=10, burst=True).run()
    assert [letter.error for letter in await list_dead(queues[0])] == []


def table_names(store: Store) -> list[str]:
    with store.setup() as session:
        return inspect_tables(session.connection()).get_table_names()


async def test_a_dispatch_is_one_statement_of_the_transaction_just_before_its_commit(
    joined: Store, app: App
) -> None:
    greet = greeting()
    async with opened(joined) as session:
        user = await new_user(session)
        await greet(user).dispatch()
        await done(session.commit())  # from now on it is known whose database this is
        user = await new_user(session)
        with joined.counted() as statements:
            handles = [await greet(user).dispatch() for _ in range(3)]
            handles += await dispatch_many(greet(user) for _ in range(997))
            assert statements == []
            assert await handles[0].status() == TaskStatus.UNCOMMITTED
            assert await held(app, handles[0]) is None
            await done(session.commit())
        assert len(statements) == 1
        assert "put_in_transaction" in statements[0]
    assert {await handle.status() for handle in handles[::100]} == {WAITING}
    [stats] = await app.open_broker().stats()
    assert stats.waiting == 1001
    assert not any(table.startswith("asynctasq_") for table in table_names(joined))


async def test_the_first_dispatch_of_all_is_part_of_its_transaction(
    joined: Store, app: App
) -> None:
    async with opened(joined) as session:
        with joined.counted() as statements:
            handle = await greeting()(await new_user(session)).dispatch()
            await done(session.commit())
    assert sum("put_in_transaction" in statement for statement in statements) == 1
    assert await held(app, handle) == "waiting"


async def test_rollbacks_take_their_messages_along(joined: Store, app: App) -> None:
    greet = greeting()
    async with opened(joined) as session:
        user = await new_user(session)
        kept = await greet(user).dispatch()
        savepoint = await done(session.begin_nested())
        inner = await greet(await new_user(session)).dispatch()
        await done(savepoint.rollback())
        await done(session.commit())
        gone = await greet(await new_user(session)).dispatch()
        await done(session.rollback())
    assert [await h.status() for h in (kept, inner, gone)] == [WAITING, DROPPED, DROPPED]
    assert [await held(app, h) for h in (kept, inner, gone)] == ["waiting", None, None]


async def test_a_commit_that_fails_leaves_no_message(joined: Store, app: App) -> None:
    async with opened(joined) as session:
        await greeting()(await new_user(session)).dispatch()
        await done(session.commit())
        handle = await greeting()(await new_user(session)).dispatch()
        unique = "CREATE TEMPORARY TABLE two (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
        await done(session.execute(text(unique)))
        await done(session.execute(text("INSERT INTO two VALUES (1), (1)")))
        with pytest.raises(IntegrityError):
            await done(session.commit())
    assert await handle.status() == TaskStatus.UNKNOWN
    assert await held(app, handle) is None


async def test_a_unique_key_is_taken_with_the_commit(joined: Store, app: App) -> None:
    greet = greeting(unique=Unique(by=lambda user: user.name))
    async with opened(joined) as session:
        first = await greet(await new_user(session)).dispatch()
        await done(session.rollback())
        second = await greet(await new_user(session)).dispatch()
        await done(session.commit())
        third = await greet(await new_user(session)).dispatch()
        own_id = third.id
        await done(session.commit())
    assert await first.status() == DROPPED
    assert (third.id, third.is_existing) == (second.id, True)
    assert await app.open_broker().state(third.queue, own_id) is None
    [stats] = await app.open_broker().stats()
    assert stats.waiting == 1


async def test_a_replacement_takes_effect_with_the_commit(joined: Store, app: App) -> None:
    seen: list[str] = []
    by = Unique(by=lambda user: "same", on_conflict="replace")

    @task(name=name(), unique=by)
    async def greet(user: User) -> None:
        seen.append(user.name)

    async with opened(joined) as session:
        first = await greet(await new_user(session, name="first")).dispatch()
        await done(session.commit())
        await greet(await new_user(session, name="rolled back")).dispatch()
        await done(session.rollback())
        second = await greet(await new_user(session, name="second")).dispatch()
        await done(session.commit())
    assert second.id == first.id
    await work(app)
    assert seen == ["second"]


async def test_limits_and_delays_travel_in_the_transaction(joined: Store, app: App) -> None:
    greet = greeting(limit=Limit(1, by="user"), priority=3)
    async with opened(joined) as session:
        user = await new_user(session)
        handles = [await greet(user).dispatch() for _ in range(3)]
        later = await greet(user).delay(60).dispatch()
        await done(session.commit())
    assert await held(app, later) == "delayed"
    keys = await app.open_broker().keys_in_use(handles[0].queue)  # type: ignore[attr-defined]
    assert [(key.kind, key.waiting) for key in keys] == [("limit", 4)]
    async with asyncio.timeout(50):
        worker = Worker(queues=(handles[0].queue,), concurrency=10)
        running = asyncio.create_task(worker.run())
        while any([await held(app, handle) for handle in handles]):
            await asyncio.sleep(0.02)
        worker.stop()
        await running


async def test_a_waiting_worker_is_woken_after_the_commit(joined: Store, app: App) -> None:
    ran = asyncio.Event()

    @task(name=name())
    async def greet(user: User) -> None:
        ran.set()

    queue = app.config.task_defaults["queue"]
    worker = Worker(queues=(queue,))
    running = asyncio.create_task(worker.run())
    async with opened(joined) as session, asyncio.timeout(15):  # it looks by itself after 20 s
        for _ in range(3):
            ran.clear()
            await greet(await new_user(session)).dispatch()
            await done(session.commit())
            await ran.wait()
    worker.stop()
    await running


async def test_another_database_of_the_server_is_not_the_brokers(
    joined: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_database("asynctasq_other") as url:
        async with application(monkeypatch, url, "asynctasq") as app, opened(joined) as session:
            with joined.counted() as statements:
                handle = await greeting()(await new_user(session)).dispatch()
                await done(session.commit())
            assert not any("put_in_transaction" in statement for statement in statements)
            assert await held(app, handle) == "waiting"


async def test_a_schema_of_the_same_name_does_not_make_it_the_brokers(
    joined: Store, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = app.config.broker.schema
    await app.open_broker().stats()
    with postgres_database("asynctasq_other") as url:
        async with application(monkeypatch, url, schema) as other, opened(joined) as session:
            await other.open_broker().stats()
            handle = await greeting()(await new_user(session)).dispatch()
            await done(session.commit())
            assert await held(other, handle) == "waiting"
            assert await held(app, handle) is None


async def test_a_user_who_may_not_write_there_dispatches_after_the_commit(
    joined: Store, app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"poor_{uuid4().hex[:12]}"
    await app.open_broker().stats()
    with joined.setup() as session:
        session.execute(text(f"CREATE ROLE {role}"))
        session.execute(text(f"GRANT SELECT, INSERT ON users TO {role}"))
        session.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"))
        session.commit()
    try:
        async with opened(joined) as session:
            await done(session.execute(text(f"SET ROLE {role}")))
            handle = await greeting()(await new_user(session)).dispatch()
            await done(session.commit())
        assert await held(app, handle) == "waiting"
        assert "may not write there" in caplog.text
    finally:
        with joined.setup() as session:
            session.execute(text(f"DROP OWNED BY {role}"))
            session.execute(text(f"DROP ROLE {role}"))
            session.commit()


# --- atomic tasks -----------------------------------------------------------------------


def count_items(store: Store) -> int:
    with store.setup() as session:
        return session.query(Item).count()


async def test_an_atomic_task_is_settled_in_its_own_transaction(joined: Store, app: App) -> None:
    is_async = joined.driver != "psycopg-sync"
    following = greeting()

    async def on_loop(user: User) -> Item:
        task_session().add(item := Item(name="new"))
        await following(user).dispatch()
        return item

    def in_thread(user: User) -> Item:
        task_session().add(item := Item(name="new"))
        following(user).dispatch_sync()
        return item

    function: Any = on_loop if is_async else in_thread
    run = task(name=name(), atomic=True, result_ttl=60)(function)
    user = User(id=1, name="Ann")
    joined.add(user)
    handle = await run(user).dispatch()
    with joined.counted() as statements:
        await work(app)
    assert (await handle.result(5)).name == "new"
    assert await handle.status() == DONE
    assert count_items(joined) == 1
    assert sum("settle_in_transaction" in statement for statement in statements) == 1
    assert sum("put_in_transaction" in statement for statement in statements) == 1
    assert not any("INTO asynctasq_" in statement for statement in statements)
    assert not any(table.startswith("asynctasq_") for table in table_names(joined))
    assert await backlogs(app.config, app.outbox) == []


async def test_what_follows_an_atomic_task_is_put_by_its_transaction(
    joined: Store, app: App
) -> None:
    if joined.driver == "psycopg-sync":
        pytest.skip("the same code")
    seen: list[int] = []

    @task(name=name(), atomic=True)
    async def add(user: User) -> int:
        task_session().add(item := Item(name="new"))
        await task_session().flush()
        return item.id

    @task(name=name())
    async def note(number: int) -> None:
        seen.append(number)

    user = User(id=1, name="Ann")
    joined.add(user)
    await add(user).then(note).dispatch()
    with joined.counted() as statements:
        await work(app)
    assert (len(seen), count_items(joined)) == (1, 1)
    assert sum("put_in_transaction" in statement for statement in statements) == 1
    assert not any("INTO asynctasq_" in statement for statement in statements)


async def test_a_task_without_a_result_costs_one_more_statement(joined: Store, app: App) -> None:
    is_async = joined.driver != "psycopg-sync"

    async def on_loop(user: User) -> None:
        user.name = "Zoe"

    def in_thread(user: User) -> None:
        user.name = "Zoe"

    function: Any = on_loop if is_async else in_thread
    run = task(name=name(), atomic=True)(function)
    user = User(id=1, name="Ann")
    joined.add(user)
    await run(user).dispatch()
    await work(app)
    with joined.counted() as statements:
        await run(user).dispatch()
        await work(app)
    # What runs beside the tasks may look meanwhile whether the database has tables of its own.
    looks = ("asynctasq_outbox", "asynctasq_done", "SELECT 1")
    [settled] = [s for s in statements if not any(word in s for word in ("users", *looks))]
    assert "settle_in_transaction" in settled


async def test_a_run_whose_lease_was_lost_is_rolled_back(joined: Store, app: App) -> None:
    if joined.driver == "psycopg-sync":
        pytest.skip("the same code")
    runs: list[int] = []
    schema = app.config.broker.schema

    @task(name=name(), atomic=True)
    async def add(user: User) -> None:
        runs.append(len(runs))
        task_session().add(Item(name="once"))
        await task_session().flush()
        if len(runs) == 1:
            with joined.setup() as session:  # as another worker takes it over
                session.execute(text(f"UPDATE {schema}.running SET lease = lease - 1000"))
                session.commit()

    user = User(id=1, name="Ann")
    joined.add(user)
    handle = await add(user).dispatch()
    queue = app.config.task_defaults["queue"]
    worker = Worker(queues=(queue,))
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        while not runs or worker.running:
            await asyncio.sleep(0.01)
    assert count_items(joined) == 0
    assert await held(app, handle) == "running"
    worker.stop()
    await running  # which gives it back
    await work(app)
    assert (len(runs), count_items(joined)) == (2, 1)


@pytest.mark.parametrize("end", ["", "body", "commit"])
async def test_a_process_that_dies_has_settled_what_it_has_committed(
    database_url: Any, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    with open_store("psycopg-sync", database_url, monkeypatch) as store:
        schema = f"test_{uuid4().hex[:12]}"
        sqlalchemy_url = store.url.render_as_string(hide_password=False)
        monkeypatch.setenv(saatomic.URL, sqlalchemy_url)
        monkeypatch.setenv("ASYNCTASQ_PLUGINS", "sqlalchemy")
        async with application(monkeypatch, plain(store), schema) as app:
            registry[saatomic.add.name] = saatomic.add
            queue = app.config.task_defaults["queue"]
            handle = await saatomic.add("new", end=end).dispatch()
            async with asyncio.timeout(50):
                await Worker(queues=[queue], burst=True, modules=["saatomic"]).run()
            dead = [letter.error for letter in await list_dead(queue)]
            if end == "body":
                assert count_items(store) == 0
                assert "exited with code 9" in dead[0]
            else:
                assert (count_items(store), dead) == (1, [])
                assert await handle.result(5) != os.getpid()
        with store.setup() as session:
            session.execute(text(f"DROP SCHEMA {schema} CASCADE"))
            session.commit()


async def test_a_commit_whose_answer_is_lost_has_happened(joined: Store, app: App) -> None:
    if joined.driver == "psycopg-sync":
        pytest.skip("the same code")
    runs: list[int] = []

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> int:
        runs.append(len(runs))
        task_session().add(Item(name="once"))
        return len(runs)

    user = User(id=1, name="Ann")
    joined.add(user)
    handle = await add(user).dispatch()
    dialect: Any = joined.sync_engine.dialect
    commit = dialect.do_commit

    def lose(connection: Any) -> None:
        commit(connection)
        if runs:
            raise ConnectionError("no answer")

    dialect.do_commit = lose
    try:
        await work(app)
    finally:
        dialect.do_commit = commit
    assert (len(runs), count_items(joined)) == (1, 1)
    assert await handle.result(5) == 1


async def test_a_dispatch_whose_commit_lost_its_answer_is_known_to_wait(
    joined: Store, app: App
) -> None:
    async with opened(joined) as session:
        handle = await greeting()(await new_user(session)).dispatch()
        dialect: Any = joined.sync_engine.dialect
        commit = dialect.do_commit

        def lose(connection: Any) -> None:
            commit(connection)
            raise ConnectionError("no answer")

        dialect.do_commit = lose
        try:
            with pytest.raises(ConnectionError):
                await done(session.commit())
        finally:
            dialect.do_commit = commit
            await done(session.rollback())
    assert await handle.status() == WAITING
