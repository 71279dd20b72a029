"""The outbox and atomic tasks on Django's databases, with tables that its migrations make."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any
from uuid import uuid4

import asynctasq
import django
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asynctasq import SyncTask, TaskHandle, TaskStatus, Worker, dispatch_many_sync, task
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.deadletters import list_dead
from asynctasq.sending import tables
from asynctasq.sending.preparing import prepare
from asynctasq.services.relay import Relay
from asynctasq.tasks.task import registry
from asynctasq_django import adapter, select_for_update
from asynctasq_django.lanes import close_lanes
from django.core.management import call_command
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext
from djshop.models import Order, User

from .conftest import Run

AWAY = "redis://127.0.0.1:1/0"
DROPPED, WAITING = TaskStatus.DROPPED, TaskStatus.WAITING


@pytest.fixture
def migrated(need_database: Callable[[str], str]) -> Callable[[str], str]:
    """Makes sure of a database that has core's tables, empty."""

    def need(alias: str) -> str:
        need_database(alias)
        call_command("migrate", "asynctasq_django", database=alias, verbosity=0)
        for table in (tables.OUTBOX, tables.DONE):
            query(alias, f"DELETE FROM {table}")
        return alias

    return need


@pytest.fixture(params=["default", "maria", "lite"])
def alias(request: pytest.FixtureRequest, migrated: Callable[[str], str]) -> str:
    return migrated(request.param)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application with an outbox on the memory broker; its tasks are forgotten afterwards."""
    before = dict(registry)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not others, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"django": adapter}))
    defaults = {"queue": f"once-{uuid4().hex[:8]}", "max_attempts": 1}
    asynctasq.init(driver="memory", outbox=True, task_defaults=defaults)
    yield asynctasq.app.current()
    registry.clear()
    registry.update(before)


def query(alias: str, sql: str) -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def count(alias: str, table: str) -> int:
    return int(query(alias, f"SELECT count(*) FROM {table}")[0][0])


def becomes(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def queue_of(app: App) -> str:
    return str(app.config.task_defaults["queue"])


def work(app: App, *queues: str, concurrency: int = 10) -> None:
    async def run() -> None:
        async with asyncio.timeout(50):
            names = queues or (queue_of(app),)
            await Worker(queues=names, concurrency=concurrency, burst=True).run()

    asyncio.run(run())


def errors(app: App) -> list[str]:
    return [letter.error for letter in asyncio.run(list_dead(queue_of(app)))]


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


def greeting() -> Any:
    @task(name=name())
    async def greet(user: User, other: User | None = None) -> None: ...

    return greet


def new_user(alias: str, email: str = "a") -> User:
    return User.objects.using(alias).create(email=email)


# --- the outbox -------------------------------------------------------------------------


def test_all_calls_of_a_transaction_are_one_statement_just_before_its_commit(
    alias: str, app: App
) -> None:
    greet = greeting()
    with CaptureQueriesContext(connections[alias]) as queries, transaction.atomic(using=alias):
        user = new_user(alias)
        handles = dispatch_many_sync(greet(user) for _ in range(100))
        handles.append(greet(user, new_user(alias, "b")).dispatch_sync())
        assert count(alias, tables.OUTBOX) == 0
    inserts = [q for q in queries if tables.OUTBOX in q["sql"] and "INSERT" in q["sql"]]
    assert len(inserts) == 1
    becomes(lambda: count(alias, tables.OUTBOX) == 0)
    assert {handle.status_sync() for handle in handles} == {WAITING}


def test_savepoints_and_rollbacks_take_their_rows_along(alias: str, app: App) -> None:
    greet = greeting()
    with transaction.atomic(using=alias):
        kept = greet(new_user(alias)).dispatch_sync()
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            lost = greet(new_user(alias)).dispatch_sync()
            raise ZeroDivisionError
    with suppress(ZeroDivisionError), transaction.atomic(using=alias):
        gone = greet(new_user(alias)).dispatch_sync()
        raise ZeroDivisionError
    becomes(lambda: count(alias, tables.OUTBOX) == 0)
    assert [h.status_sync() for h in (kept, lost, gone)] == [WAITING, DROPPED, DROPPED]


def test_a_commit_neither_fails_nor_waits_without_the_broker(alias: str, app: App) -> None:
    asynctasq.init(redis={"url": AWAY, "timeout": 30.0}, outbox=True)
    greet = greeting()
    began = time.monotonic()
    with transaction.atomic(using=alias):
        greet(new_user(alias)).dispatch_sync()
    assert time.monotonic() - began < 5
    assert (count(alias, tables.OUTBOX), User.objects.using(alias).count()) == (1, 1)


def test_async_code_uses_it_too(alias: str, app: App) -> None:
    greet = greeting()

    @sync_to_async
    def sign_up() -> TaskHandle[Any]:
        with transaction.atomic(using=alias):
            handle: TaskHandle[Any] = greet(new_user(alias)).dispatch_sync()
            return handle

    handle = async_to_sync(sign_up)()
    becomes(lambda: count(alias, tables.OUTBOX) == 0)
    assert handle.status_sync() == WAITING


def test_each_database_has_its_own(migrated: Callable[[str], str], app: App) -> None:
    one, other = migrated("default"), migrated("other")
    asynctasq.init(redis={"url": AWAY, "timeout": 30.0}, outbox=True)
    greet = greeting()
    with transaction.atomic(using=one), transaction.atomic(using=other):
        greet(new_user(one)).dispatch_sync()
        for _ in range(2):
            greet(new_user(other)).dispatch_sync()
        greet(new_user(one), new_user(other)).dispatch_sync()
    assert count(one, tables.OUTBOX) + count(other, tables.OUTBOX) == 4
    assert count(other, tables.OUTBOX) in (2, 3)


def test_the_relay_sends_what_a_process_left(alias: str, app: App) -> None:
    call = greeting()(new_user(alias))
    message = prepare(call, app.config, app.adapters).outgoing
    [statement] = tables.insertion([message])
    with connections[alias].cursor() as cursor:
        cursor.execute(statement.in_style("format"), list(statement.parameters))

    async def relay() -> list[int]:
        service = Relay(app.outbox, app.open_broker())
        seen = []
        for _ in range(2):
            await service.turn()
            seen.append(await sync_to_async(count)(alias, tables.OUTBOX))
        return seen

    assert asyncio.run(relay()) == [1, 0]
    assert call.task.handle(message.id).status_sync() == WAITING


# --- atomic tasks -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "def", "class"])
def test_writes_dispatches_result_and_end_are_one_commit(alias: str, app: App, kind: str) -> None:
    @task(name=name(), queue="once-next")
    async def following(number: int) -> None: ...

    seen: list[Any] = []

    def write(user: User) -> Order:
        user.name = "Zoe"
        user.save()
        return Order.objects.using(alias).create(title="new", user=user)

    async def on_loop(user: User) -> Order:
        order = await sync_to_async(write)(user)
        seen.append(await following(7).dispatch())
        return order

    def in_thread(user: User) -> Order:
        order = write(user)
        seen.append(following(7).dispatch_sync())
        return order

    if kind == "class":

        class Write(SyncTask[Order]):
            config = {"atomic": True, "result_ttl": 60, "name": name()}

            def __init__(self, user: User) -> None:
                self.user = user

            def execute(self) -> Order:
                return in_thread(self.user)

        handle = Write(new_user(alias)).dispatch_sync()
    else:
        function: Any = on_loop if kind == "async" else in_thread
        run = task(name=name(), atomic=True, result_ttl=60)(function)
        handle = run(new_user(alias)).dispatch_sync()
    work(app)
    assert errors(app) == []
    assert handle.result_sync(5).title == "new"
    assert User.objects.using(alias).get().name == "Zoe"
    assert (count(alias, tables.DONE), seen[0].status_sync()) == (1, WAITING)
    becomes(lambda: count(alias, tables.OUTBOX) == 0)


@pytest.mark.parametrize("kind", ["async", "def"])
def test_a_burst_runs_what_its_own_tasks_have_committed(alias: str, app: App, kind: str) -> None:
    runs: list[int] = []

    def following(user: User, number: int) -> Any:
        runs.append(number)
        return step(user, number + 1)

    async def begin_next(user: User, number: int) -> None:
        if number < 5:
            await following(user, number).dispatch()

    def begin_next_in_thread(user: User, number: int) -> None:
        if number < 5:
            following(user, number).dispatch_sync()

    function: Any = begin_next if kind == "async" else begin_next_in_thread
    step: Any = task(name=name(), atomic=True)(function)
    step(new_user(alias), 0).dispatch_sync()
    work(app)
    assert (errors(app), runs) == ([], [0, 1, 2, 3, 4])


def test_what_is_delivered_again_is_not_run_again(alias: str, app: App) -> None:
    runs: list[int] = []

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> int:
        runs.append(1)
        await Order.objects.using(alias).acreate(title="once", user=user)
        return len(runs)

    message = prepare(add(new_user(alias)), app.config, app.adapters).outgoing
    for _ in range(3):
        asyncio.run(put(app, message))
        work(app)
    assert (len(runs), Order.objects.using(alias).count()) == (1, 1)
    assert add.handle(message.id).result_sync(5) == 1


async def put(app: App, *messages: Outgoing) -> None:
    await app.open_broker().put(messages)


def test_of_two_runs_at_once_one_commits(alias: str, app: App) -> None:
    runs: list[int] = []
    both = asyncio.Barrier(2)

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> int:
        runs.append(1)
        number = len(runs)
        if number <= 2:
            await both.wait()
        await Order.objects.using(alias).acreate(title="once", user=user)
        return number

    message = prepare(add(new_user(alias)), app.config, app.adapters).outgoing
    queues = [queue_of(app), f"{queue_of(app)}-2"]
    asyncio.run(put(app, *(Outgoing(queue, message.id, message.body) for queue in queues)))
    work(app, *queues)
    assert (len(runs), Order.objects.using(alias).count()) == (2, 1)
    results = {add.handle(message.id, queue).result_sync(5) for queue in queues}
    assert len(results) == 1


@pytest.mark.parametrize("way", ["error", "timeout", "rolled back by hand"])
def test_a_run_that_fails_leaves_nothing(alias: str, app: App, way: str) -> None:
    handles: list[Any] = []

    @task(name=name(), queue="once-next")
    async def following() -> None: ...

    @task(name=name(), atomic=True, timeout=2 if way == "timeout" else None)
    async def add(user: User) -> None:
        await Order.objects.using(alias).acreate(title="lost", user=user)
        handles.append(await following().dispatch())
        if way == "error":
            raise LookupError
        if way == "timeout":
            await asyncio.Event().wait()
        await sync_to_async(transaction.set_rollback)(True, using=alias)

    add(new_user(alias)).dispatch_sync()
    work(app)
    assert len(errors(app)) == 1
    assert (Order.objects.using(alias).count(), count(alias, tables.DONE)) == (0, 0)
    assert handles[0].status_sync() == DROPPED


@pytest.mark.skipif(django.VERSION < (5, 1), reason="transaction_mode came with 5.1")
@pytest.mark.parametrize("mode", ["IMMEDIATE", "exclusive"])
def test_a_transaction_that_locks_the_file_at_once_can_be_atomic(
    mode: str, migrated: Callable[[str], str], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = migrated("lite")
    user = new_user(alias)

    @task(name=name(), atomic=True, result_ttl=60)
    async def add(user: User) -> str:
        await Order.objects.using(alias).acreate(title="new", user=user)
        return "done"

    asyncio.run(close_lanes())  # connections take the mode when they are opened
    options = connections.settings[alias].setdefault("OPTIONS", {})
    monkeypatch.setitem(options, "transaction_mode", mode)
    handle = add(user).dispatch_sync()
    work(app)
    asyncio.run(close_lanes())
    assert errors(app) == []
    assert handle.result_sync(5) == "done"
    assert (Order.objects.using(alias).count(), count(alias, tables.DONE)) == (1, 1)


def test_a_task_cannot_commit_the_transaction(alias: str, app: App) -> None:
    @task(name=name(), atomic=True)
    def add(user: User) -> None:
        Order.objects.using(alias).create(title="lost", user=user)
        transaction.commit(using=alias)

    add(new_user(alias)).dispatch_sync()
    work(app)
    assert "This is forbidden when an 'atomic' block is active" in errors(app)[0]
    assert Order.objects.using(alias).count() == 0


@pytest.mark.parametrize("kind", ["async", "def"])
def test_locked_rows_are_locked_in_that_transaction(
    migrated: Callable[[str], str], app: App, kind: str
) -> None:
    migrated("default")

    def count_up(user: Annotated[User, select_for_update()]) -> None:
        user.name = str(int(user.name) + 1)
        user.save()

    async def count_up_on_loop(user: Annotated[User, select_for_update()]) -> None:
        user.name = str(int(user.name) + 1)
        await user.asave()

    function: Any = count_up if kind == "def" else count_up_on_loop
    function.__annotations__["user"] = Annotated[User, select_for_update()]
    run = task(name=name(), atomic=True)(function)
    user = User.objects.create(email="a", name="0")
    dispatch_many_sync(run(user) for _ in range(20))
    work(app)
    assert errors(app) == []
    assert (User.objects.get().name, count("default", tables.DONE)) == ("20", 20)


@pytest.mark.parametrize("alias", ["default", "maria"], indirect=True)
def test_a_deadlock_is_run_again_without_using_up_an_attempt(alias: str, app: App) -> None:
    runs: list[int] = []
    both = asyncio.Barrier(2)

    @task(name=name(), atomic=True)
    async def change(first: User, second: User) -> None:
        runs.append(1)
        first.name += "!"
        await first.asave()
        if len(runs) <= 2:
            async with asyncio.timeout(10):
                await both.wait()
        second.name += "!"
        await second.asave()

    a, b = new_user(alias, "a"), new_user(alias, "b")
    dispatch_many_sync([change(a, b), change(b, a)])
    work(app)
    assert errors(app) == []
    assert [u.name for u in User.objects.using(alias).all()] == ["!!", "!!"]
    assert (len(runs), count(alias, tables.DONE)) == (3, 2)


def test_execute_commits_as_a_worker_does(alias: str, app: App) -> None:
    @task(name=name(), atomic=True)
    async def rename(user: User) -> None:
        user.name = "Zoe"
        await user.asave()

    asyncio.run(rename(new_user(alias)).execute())
    assert User.objects.using(alias).get().name == "Zoe"
    assert count(alias, tables.DONE) == 0


def test_migrations_are_what_the_models_say(run: Run) -> None:
    # In a process of its own: other tests here make models of their own.
    done = run("manage.py", "makemigrations", "asynctasq_django", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
