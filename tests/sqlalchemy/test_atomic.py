"""Atomic tasks: what they write, what they dispatch and that they are done is one transaction."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any
from uuid import uuid4

import asynctasq
import pytest
import saatomic
from asynctasq import (
    AsyncTask,
    Call,
    ConfigurationError,
    OnMissing,
    TaskHandle,
    TaskStatus,
    Worker,
    task,
)
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.brokers import ConsumerOptions, Outgoing, WorkerInfo
from asynctasq.deadletters import list_dead
from asynctasq.sending import tables
from asynctasq.sending.preparing import prepare
from asynctasq.services.forgetting import Forgetting
from asynctasq.tasks.task import registry
from asynctasq.wire.flow import following_id
from asynctasq.worker import atomic
from asynctasq_sqlalchemy import adapter, for_update, task_session
from sashop import Item, Order, User
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from .stores import Store

# Only the test of processes has it: where another adapter is in use, no worker could run it.
registry.pop(saatomic.add.name, None)


@pytest.fixture
def queue() -> str:
    return f"atomic-{uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def app(queue: str, monkeypatch: pytest.MonkeyPatch) -> App:
    """An application on the memory broker, whose tasks run once."""
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not Django's, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"sqlalchemy": adapter}))
    asynctasq.init(driver="memory", task_defaults={"queue": queue, "max_attempts": 1})
    return asynctasq.app.current()


@pytest.fixture(autouse=True)
def only_own_tasks() -> Any:
    """Leave no atomic task behind, for which every later worker would run services."""
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


def with_tables(store: Store) -> Store:
    dialect: Any = {"postgres": "postgresql"}.get(store.server, store.server)
    with store.setup() as session:
        for statement in tables.creation(dialect):
            session.execute(text(statement.sql))
        for table in (tables.OUTBOX, tables.DONE):
            session.execute(text(f"DELETE FROM {table}"))
        session.commit()
    return store


@pytest.fixture
def atomic_store(async_store: Store) -> Store:
    return with_tables(async_store)


@pytest.fixture
def any_store(store: Store) -> Store:
    return with_tables(store)


@pytest.fixture
def lite_store(lite: Store) -> Store:
    return with_tables(lite)


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


def done(store: Store) -> int:
    return count(store, tables.DONE)


def count(store: Store, table: str) -> int:
    with store.setup() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def items(store: Store) -> list[str]:
    with store.setup() as session:
        return list(session.scalars(select(Item.name).order_by(Item.name)))


async def work(app: App, *queues: str, concurrency: int = 10) -> None:
    queues = queues or (app.config.task_defaults["queue"],)
    async with asyncio.timeout(50):
        await Worker(queues=queues, concurrency=concurrency, burst=True).run()


async def errors(queue: str) -> list[str]:
    return [letter.error for letter in await list_dead(queue)]


async def becomes(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def outgoing(app: App, call: Call[Any], *queues: str) -> list[Outgoing]:
    """One message, for each of these queues."""
    message = prepare(call, app.config, app.adapters).outgoing
    return [Outgoing(queue, message.id, message.body) for queue in queues]


async def waiting(app: App, queue: str) -> int:
    return sum(s.waiting for s in await app.open_broker().stats() if s.name == queue)


# --- one transaction --------------------------------------------------------------------


async def test_writes_dispatches_result_and_end_are_one_commit(any_store: Store, app: App) -> None:
    is_async = any_store.driver in ("asyncpg", "psycopg", "aiomysql", "aiosqlite")

    @task(name=name(), queue="atomic-next")
    async def following(number: int) -> None: ...

    seen: list[Any] = []

    def body(user: User) -> Item:
        item = Item(name="new")
        task_session().add(item)
        user.name = "Zoe"
        seen.append((done(any_store), count(any_store, tables.OUTBOX)))
        return item

    async def on_loop(user: User) -> Item:
        item = body(user)
        seen.append(await following(7).dispatch())
        return item

    def in_thread(user: User) -> Item:
        item = body(user)
        seen.append(following(7).dispatch_sync())
        return item

    function: Any = on_loop if is_async else in_thread
    run = task(name=name(), atomic=True, result_ttl=60)(function)
    user = User(id=1, name="Ann")
    any_store.add(user)
    handle = await run(user).dispatch()
    with any_store.counted() as statements:
        await work(app)
    assert await errors(app.config.task_defaults["queue"]) == []
    assert seen[0] == (0, 0)
    item = await handle.result(5)
    assert (item.name, items(any_store), done(any_store)) == ("new", ["new"], 1)
    assert sum(tables.DONE in s and s.startswith("INSERT") for s in statements) == 1
    await becomes(lambda: count(any_store, tables.OUTBOX) == 0)
    assert await seen[1].status() == TaskStatus.WAITING
    assert await waiting(app, "atomic-next") == 1


async def test_what_is_delivered_again_is_not_run_again_and_keeps_its_result(
    atomic_store: Store, app: App, queue: str
) -> None:
    runs: list[int] = []

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> str:
        runs.append(len(runs))
        task_session().add(Item(name="once"))
        return f"run {len(runs)}"

    user = User(id=1, name="Ann")
    atomic_store.add(user)
    broker = app.open_broker()
    [message] = outgoing(app, add(user), queue)
    for _ in range(3):
        await broker.put([message])
        await work(app)
    assert (runs, items(atomic_store)) == ([0], ["once"])
    assert await add.handle(message.id).result(5) == "run 1"


async def test_a_task_that_deletes_its_row_is_found_to_be_done(
    atomic_store: Store, app: App, queue: str
) -> None:
    @task(name=name(), atomic=True, result_ttl=60)
    async def remove(item: Item) -> str:
        await task_session().delete(item)
        return "removed"

    atomic_store.add(item := Item(id=1, name="gone"))
    [message] = outgoing(app, remove(item), queue)
    for _ in range(2):
        await app.open_broker().put([message])
        await work(app)
    assert (items(atomic_store), await errors(queue)) == ([], [])
    assert await remove.handle(message.id).result(5) == "removed"


async def test_a_database_that_does_not_say_what_is_done_holds_no_slot(
    atomic_store: Store, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    if atomic_store.server != "postgres":
        pytest.skip("its SELECT waits for no lock")
    monkeypatch.setattr(atomic, "LOOK_SECONDS", 0.2)

    @task(name=name(), atomic=True, result_ttl=60, timeout=0.5)
    async def add(user: User) -> str:
        task_session().add(Item(name="once"))
        return "added"

    atomic_store.add(user := User(id=1, name="Ann"))
    handle = await add(user).dispatch()
    async with asyncio.timeout(50):
        with atomic_store.setup() as session:
            session.execute(text(f"LOCK TABLE {tables.DONE} IN ACCESS EXCLUSIVE MODE"))
            worker = Worker(queues=[handle.queue], concurrency=1)
            working = asyncio.create_task(worker.run())
            while await handle.status() is not TaskStatus.DELAYED:
                await asyncio.sleep(0.01)
        assert await handle.result(40) == "added"
        worker.stop()
        await working
    assert items(atomic_store) == ["once"]


async def test_a_call_is_found_to_be_done_before_it_is_given_up(
    lite_store: Store, app: App, queue: str
) -> None:
    asynctasq.init(driver="memory", max_deliveries=1, task_defaults={"queue": queue})
    app = asynctasq.app.current()

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> str:
        task_session().add(Item(name="once"))
        return "kept"

    lite_store.add(user := User(id=1, name="Ann"))
    done_one, never_run = outgoing(app, add(user), queue) + outgoing(app, add(user), queue)
    await app.open_broker().put([done_one])
    await work(app)
    await app.open_broker().put([done_one, never_run])
    worker = WorkerInfo("dying", "here", 1, (queue,), 2, 0.0)
    dying = app.open_broker().consumer(ConsumerOptions(worker, (queue,), lease_seconds=0.05))
    await dying.start()
    assert len(await dying.take(2, 1)) == 2
    await work(app)
    assert (items(lite_store), len(await errors(queue))) == (["once"], 1)
    assert await add.handle(done_one.id).result(5) == "kept"
    assert await add.handle(never_run.id).status() is TaskStatus.DEAD


async def test_the_call_that_follows_comes_with_the_commit_and_once(
    atomic_store: Store, app: App, queue: str
) -> None:
    runs: list[str] = []

    @task(name=name(), atomic=True)
    async def add(user: User) -> Item:
        runs.append("add")
        item = Item(name=f"of {user.name}")
        task_session().add(item)
        return item

    @task(name=name(), result_ttl=60)
    async def show(item: Item, end: str) -> str:
        runs.append("show")
        return f"{item.name}{end}"

    user = User(id=1, name="Ann")
    atomic_store.add(user)
    [message] = outgoing(app, add(user).then(show, end="!"), queue)
    for _ in range(3):
        await app.open_broker().put([message])
        await work(app)
        await becomes(lambda: count(atomic_store, tables.OUTBOX) == 0)
    await work(app)
    assert (runs, items(atomic_store)) == (["add", "show"], ["of Ann"])
    assert await show.handle(following_id(message.id)).result(5) == "of Ann!"


async def test_a_batch_gets_the_result_of_a_call_that_came_again(
    atomic_store: Store, app: App, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task(name=name(), atomic=True, result_ttl=60)
    async def kept(user: User) -> str:
        task_session().add(Item(name=f"kept of {user.name}"))
        return "kept"

    @task(name=name(), atomic=True)
    async def add(user: User) -> Item:
        item = Item(name=f"of {user.name}")
        task_session().add(item)
        return item

    @task(name=name(), result_ttl=60)
    async def collect(results: list[Any]) -> list[str]:
        return [results[0], results[1].name]

    user = User(id=1, name="Ann")
    atomic_store.add(user)
    batch = await asynctasq.Batch([kept(user), add(user)], then=collect).dispatch()
    broker: Any = app.open_broker()
    held = await broker.find_held(queue, [child.id for child in batch.children])
    # Run once where nobody knows the batch, as if the worker died before it could report.
    asynctasq.init(driver="memory", task_defaults={"queue": queue, "max_attempts": 1})
    elsewhere = asynctasq.app.current()
    await elsewhere.open_broker().put([Outgoing(queue, m.id, m.body) for m in held])
    await work(elsewhere)
    assert done(atomic_store) == 2
    monkeypatch.setattr(asynctasq.app, "_current", app)
    await work(app)
    assert items(atomic_store) == ["kept of Ann", "of Ann"]
    assert batch.then is not None
    assert await batch.then.result(5) == ["kept", "of Ann"]


async def test_nothing_follows_a_run_that_is_rolled_back(
    atomic_store: Store, app: App, queue: str
) -> None:
    @task(name=name(), atomic=True)
    async def add(user: User) -> Item:
        task_session().add(Item(name=user.name))
        await task_session().flush()
        raise ValueError("not now")

    @task(name=name(), atomic=True)
    async def give(user: User) -> object:
        return object()

    @task(name=name())
    async def never(item: object) -> None:
        raise AssertionError

    user = User(id=1, name="Ann")
    atomic_store.add(user)
    handles = [await add(user).then(never).dispatch(), await give(user).then(never).dispatch()]
    await work(app)
    assert (items(atomic_store), done(atomic_store)) == ([], 0)
    assert count(atomic_store, tables.OUTBOX) == 0
    assert [await handle.status() for handle in handles] == [TaskStatus.DEAD] * 2


async def test_a_chain_waits_for_the_commit_of_every_instance_in_it(
    atomic_store: Store, app: App, queue: str
) -> None:
    @task(name=name())
    async def first() -> str:
        return "first"

    @task(name=name(), result_ttl=60)
    async def second(text: str, user: User) -> str:
        return f"{text} {user.name}"

    assert isinstance(atomic_store.engine, AsyncEngine)
    async with AsyncSession(atomic_store.engine) as session:
        user = User(id=5, name="Eve")
        session.add(user)
        await session.flush()
        handle = await first().then(second, user).dispatch()
        assert handle.parent is not None
        assert await handle.parent.status() is TaskStatus.UNCOMMITTED
        assert await handle.status() is TaskStatus.WAITING
        await session.commit()
    await work(app)
    assert await handle.result(5) == "first Eve"


async def test_of_two_runs_at_once_one_commits(atomic_store: Store, app: App, queue: str) -> None:
    both = asyncio.Barrier(2)
    runs: list[int] = []

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> int:
        number = len(runs)
        runs.append(number)
        await both.wait()
        task_session().add(Item(name="once"))
        return number

    user = User(id=1, name="Ann")
    atomic_store.add(user)
    queues = (queue, f"{queue}-2")
    messages = outgoing(app, add(user), *queues)
    await app.open_broker().put(messages)
    await work(app, *queues)
    assert (len(runs), items(atomic_store), done(atomic_store)) == (2, ["once"], 1)
    results = [await add.handle(m.id, m.queue).result(5) for m in messages]
    assert results[0] == results[1]


@pytest.mark.parametrize("way", ["error", "timeout", "retry", "unkept result"])
async def test_a_run_that_fails_leaves_nothing(
    atomic_store: Store, app: App, queue: str, way: str
) -> None:
    handles: list[TaskHandle[Any]] = []

    @task(name=name(), queue="atomic-next")
    async def following() -> None: ...

    @task(
        name=name(),
        atomic=True,
        result_ttl=60,
        timeout=2 if way == "timeout" else None,
        max_attempts=2 if way == "retry" else 1,
        retry_delay=0.01,
    )
    async def add(user: User) -> object:
        task_session().add(Item(name="lost" if len(handles) != 1 else "kept"))
        await task_session().flush()
        handles.append(await following().dispatch())
        if way == "timeout":
            await asyncio.Event().wait()
        if way == "error" or (way == "retry" and len(handles) == 1):
            raise LookupError("no")
        return object() if way == "unkept result" else "fine"

    user = User(id=1, name="Ann")
    atomic_store.add(user)
    handle = await add(user).dispatch()
    await work(app)
    assert await handles[0].status() == TaskStatus.DROPPED
    if way == "retry":
        assert (items(atomic_store), await handle.result(5)) == (["kept"], "fine")
        assert (len(handles), done(atomic_store)) == (2, 1)
    else:
        assert (items(atomic_store), done(atomic_store), len(handles)) == ([], 0, 1)
        assert len(await errors(queue)) == 1


@pytest.mark.parametrize("rule", ["skip", "none", "fail"])
async def test_a_missing_row_is_decided_in_the_transaction(
    atomic_store: Store, app: App, queue: str, rule: Any
) -> None:
    seen: list[object] = []

    async def look(item: Any) -> None:
        seen.append(item)

    look.__annotations__["item"] = Annotated[Item | None, for_update(), OnMissing(rule)]
    run = task(name=name(), atomic=True)(look)
    item = Item(id=1, name="gone")
    atomic_store.add(item)
    handle = await run(item).dispatch()
    with atomic_store.setup() as session:
        session.execute(text("DELETE FROM items"))
        session.commit()
    await work(app)
    assert seen == ([None] if rule == "none" else [])
    assert done(atomic_store) == (1 if rule == "none" else 0)
    assert len(await errors(queue)) == (1 if rule == "fail" else 0)
    assert await handle.status() == (TaskStatus.DEAD if rule == "fail" else TaskStatus.ENDED)


async def test_locked_rows_are_locked_in_that_transaction(atomic_store: Store, app: App) -> None:
    if atomic_store.server == "sqlite":
        pytest.skip("SQLite has no locks of rows")

    async def buy(order: Annotated[Order, for_update()]) -> None:
        order.total += 1
        await asyncio.sleep(0)

    run = task(name=name(), atomic=True)(buy)
    user = User(id=1, name="Ann", orders=[Order(id=1)])
    atomic_store.add(user)
    for _ in range(20):
        await run(user.orders[0]).dispatch()
    await work(app)
    with atomic_store.setup() as session:
        assert session.scalar(select(Order.total)) == 20
    assert done(atomic_store) == 20


async def test_a_deadlock_is_run_again_without_using_up_an_attempt(
    atomic_store: Store, app: App, queue: str
) -> None:
    both = asyncio.Barrier(2)
    runs: list[str] = []

    async def change(first: Item, second: Item) -> None:
        runs.append(first.name)
        session = task_session()
        first.name += "!"
        await session.flush()
        if len(runs) <= 2:
            async with asyncio.timeout(10):
                await both.wait()
        second.name += "!"
        await session.flush()

    run = task(name=name(), atomic=True)(change)
    if atomic_store.server == "sqlite":
        pytest.skip("one transaction writes at a time")
    a, b = Item(id=1, name="a"), Item(id=2, name="b")
    atomic_store.add(a, b)
    await run(a, b).dispatch()
    await run(b, a).dispatch()
    await work(app)
    assert await errors(queue) == []
    assert (items(atomic_store), done(atomic_store)) == (["a!!", "b!!"], 2)
    assert len(runs) == 3


async def test_a_serialization_failure_is_run_again(
    atomic_store: Store, app: App, queue: str
) -> None:
    if atomic_store.server == "sqlite":
        pytest.skip("one transaction writes at a time")
    strict = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    if atomic_store.server == "mysql":
        strict = "SET SESSION innodb_snapshot_isolation = ON"
    runs: list[int] = []

    @task(name=name(), atomic=True)
    async def change(item: Item) -> None:
        runs.append(1)
        await task_session().refresh(item)
        if len(runs) == 1:
            with atomic_store.setup() as other:
                other.execute(text("UPDATE items SET name = 'b'"))
                other.commit()
        item.name += "!"

    @event.listens_for(atomic_store.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(strict)

    atomic_store.add(item := Item(id=1, name="a"))
    await change(item).dispatch()
    await work(app)
    assert await errors(queue) == []
    assert (items(atomic_store), len(runs), done(atomic_store)) == (["b!"], 2, 1)


# --- what the task may do ---------------------------------------------------------------


async def test_a_task_cannot_commit_its_session_but_may_use_savepoints(
    any_store: Store, app: App, queue: str
) -> None:
    async def finished(value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    @task(name=name(), atomic=True)
    async def commits(item: Item) -> None:
        item.name = "changed"
        await finished(task_session().commit())

    @task(name=name(), atomic=True)
    async def saves(item: Item) -> None:
        session = task_session()
        savepoint = await finished(session.begin_nested())
        session.add(Item(name="lost"))
        await finished(savepoint.rollback())
        savepoint = await finished(session.begin_nested())
        session.add(Item(name="kept"))
        await finished(savepoint.commit())

    # A key that no sequence gives next.
    any_store.add(item := Item(id=1000, name="item"))
    await commits(item).dispatch()
    await work(app)
    assert "an atomic task cannot commit its session" in (await errors(queue))[0]
    assert (items(any_store), done(any_store)) == (["item"], 0)
    await saves(item).dispatch()
    await work(app)
    assert (items(any_store), done(any_store)) == (["item", "kept"], 1)


async def test_class_based_tasks_are_atomic(atomic_store: Store, app: App) -> None:
    class Add(AsyncTask[None]):
        config = {"atomic": True, "name": name()}

        def __init__(self, user: User) -> None:
            self.user = user

        async def execute(self) -> None:
            task_session().add(Item(name=self.user.name))

    atomic_store.add(user := User(id=1, name="Ann"))
    await Add(user).dispatch()
    await work(app)
    assert (items(atomic_store), done(atomic_store)) == (["Ann"], 1)


@pytest.mark.parametrize("end", ["", "body", "commit"])
async def test_tasks_in_processes_are_atomic(
    lite_store: Store, app: App, queue: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv(saatomic.URL, f"sqlite:///{lite_store.url.database}")
    registry[saatomic.add.name] = saatomic.add
    handle = await saatomic.add("new", end=end).dispatch()
    async with asyncio.timeout(50):
        await Worker(queues=[queue], burst=True, modules=["saatomic"]).run()
    if end == "body":
        assert (items(lite_store), done(lite_store)) == ([], 0)
        assert "exited with code 9" in (await errors(queue))[0]
    else:
        assert (items(lite_store), done(lite_store)) == (["new"], 1)
        assert await handle.result(5) != os.getpid()


async def test_what_a_task_leaves_running_dispatches_for_itself(
    lite_store: Store, app: App
) -> None:
    left: list[Any] = []
    ended = asyncio.Event()

    @task(name=name(), queue="atomic-later")
    async def following() -> None: ...

    async def later() -> TaskHandle[Any]:
        await ended.wait()
        return await following().dispatch()

    @task(name=name(), atomic=True)
    async def add(user: User) -> None:
        left.append(asyncio.create_task(later()))

    lite_store.add(user := User(id=1, name="Ann"))
    await add(user).dispatch()
    await work(app)
    ended.set()
    assert await (await left[0]).status() == TaskStatus.WAITING


async def test_execute_commits_as_a_worker_does(atomic_store: Store, app: App) -> None:
    @task(name=name(), atomic=User)
    async def add(title: str) -> str:
        task_session().add(Item(name=title))
        return title

    assert await add("direct").execute() == "direct"
    assert (items(atomic_store), done(atomic_store)) == (["direct"], 0)


# --- in which database ------------------------------------------------------------------


@pytest.mark.parametrize("target", ["only", "model", "name"])
async def test_the_database_may_be_the_only_one_or_named(
    lite_store: Store, app: App, target: str
) -> None:
    [database] = {d.name for _, d in app.outbox.databases()}
    atomic: Any = {"only": True, "model": User, "name": database}[target]

    @task(name=name(), atomic=atomic)
    async def add(title: str) -> None:
        task_session().add(Item(name=title))

    await add("a").dispatch()
    await work(app)
    assert (items(lite_store), done(lite_store)) == (["a"], 1)


@pytest.mark.parametrize("atomic", [int, "no such database"])
async def test_a_database_that_nobody_has_is_refused(
    lite_store: Store, app: App, queue: str, atomic: Any
) -> None:
    @task(name=name(), atomic=atomic)
    async def add() -> None: ...

    await add().dispatch()
    if atomic is int:
        with pytest.raises(ConfigurationError, match="atomic=int means no database"):
            await work(app)
    else:
        await work(app)
        assert "means no database" in (await errors(queue))[0]


async def test_a_missing_table_is_named(lite: Store, app: App, queue: str) -> None:
    with lite.setup() as session:
        session.execute(text(f"DROP TABLE IF EXISTS {tables.DONE}"))
        session.commit()

    @task(name=name(), atomic=True)
    async def add(user: User) -> None: ...

    lite.add(user := User(id=1, name="Ann"))
    await add(user).dispatch()
    await work(app)
    assert f"{tables.DONE} cannot be read" in (await errors(queue))[0]


# --- the answer is lost -----------------------------------------------------------------


async def test_a_commit_whose_answer_is_lost_is_found_to_be_done(
    atomic_store: Store, app: App, queue: str
) -> None:
    lost: list[Session] = []

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> str:
        session = task_session()
        session.add(Item(name="once"))

        @event.listens_for(session.sync_session, "after_commit", once=True)
        def lose(committed: Session) -> None:
            lost.append(committed)
            raise OSError("connection reset")

        return "kept"

    atomic_store.add(user := User(id=1, name="Ann"))
    handle = await add(user).dispatch()
    await work(app)
    assert (len(lost), items(atomic_store), await errors(queue)) == (1, ["once"], [])
    assert await handle.result(5) == "kept"


# --- forgetting -------------------------------------------------------------------------


async def test_calls_are_forgotten_after_their_time(atomic_store: Store, app: App) -> None:
    @task(name=name(), atomic=True)
    async def add(user: User) -> None: ...

    atomic_store.add(user := User(id=1, name="Ann"))
    await add(user).dispatch()
    await work(app)
    await Forgetting(app.outbox, ttl_seconds=60).turn()
    assert done(atomic_store) == 1
    await Forgetting(app.outbox, ttl_seconds=-60).turn()
    assert done(atomic_store) == 0
