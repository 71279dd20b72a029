"""Queues in Django's own PostgreSQL: its transactions dispatch, and settle atomic tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asynctasq
import pytest
from asgiref.sync import sync_to_async
from asynctasq import TaskHandle, TaskStatus, Unique, Worker, dispatch_many_sync, task
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.deadletters import list_dead
from asynctasq.tasks.task import registry
from asynctasq_django import adapter
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext
from djshop.models import User

from ..servers import postgres_url

DROPPED, UNCOMMITTED, WAITING = TaskStatus.DROPPED, TaskStatus.UNCOMMITTED, TaskStatus.WAITING


@pytest.fixture
def app(need_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application with its queues in the default database, in a schema of the test's own."""
    need_database("default")
    before = dict(registry)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    # Not others, of whose databases other tests may know.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({"django": adapter}))
    schema = f"test_{uuid4().hex[:12]}"
    url = postgres_url().rpartition("/")[0] + f"/{connections['default'].settings_dict['NAME']}"
    defaults = {"queue": f"joined-{uuid4().hex[:8]}", "max_attempts": 1}
    config = {"url": url, "schema": schema, "poll_interval": 20}
    asynctasq.init(driver="postgres", postgres=config, task_defaults=defaults)
    made = asynctasq.app.current()
    yield made
    made.connections.leave_portal()
    registry.clear()
    registry.update(before)
    with connections["default"].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def name() -> str:
    return f"task-{uuid4().hex[:12]}"


def greeting(**options: Any) -> Any:
    @task(name=name(), **options)
    async def greet(user: User) -> None: ...

    return greet


def new_user(email: str = "a") -> User:
    return User.objects.create(email=email)


def work(app: App) -> None:
    queue = app.config.task_defaults["queue"]

    async def run() -> None:
        async with asyncio.timeout(50):
            await Worker(queues=(queue,), concurrency=10, burst=True).run()
        assert [letter.error for letter in await list_dead(queue)] == []

    asyncio.run(run())


def statuses(*handles: TaskHandle[Any]) -> list[TaskStatus]:
    return [handle.status_sync() for handle in handles]


def tables_of_core() -> list[str]:
    with connections["default"].cursor() as cursor:
        names = connections["default"].introspection.table_names(cursor)
    return [table for table in names if table in ("asynctasq_outbox", "asynctasq_done")]


def test_a_dispatch_is_one_statement_of_the_transaction_just_before_its_commit(app: App) -> None:
    greet = greeting()
    with transaction.atomic():
        first = greet(new_user()).dispatch_sync()
        assert statuses(first) == [UNCOMMITTED]
    assert statuses(first) == [WAITING]
    with CaptureQueriesContext(connections["default"]) as queries, transaction.atomic():
        user = new_user()
        handles = dispatch_many_sync(greet(user) for _ in range(1000))
    about_calls = [q["sql"] for q in queries if "djshop" not in q["sql"]]
    assert sum("put_in_transaction" in sql for sql in about_calls) == 1
    assert len(about_calls) == 3  # with BEGIN and COMMIT
    assert set(statuses(*handles[::100])) == {WAITING}


def test_rollbacks_take_their_messages_along(app: App) -> None:
    greet = greeting()
    with transaction.atomic():
        kept = greet(new_user()).dispatch_sync()
        with suppress(ZeroDivisionError), transaction.atomic():
            inner = greet(new_user()).dispatch_sync()
            raise ZeroDivisionError
    with suppress(ZeroDivisionError), transaction.atomic():
        gone = greet(new_user()).dispatch_sync()
        raise ZeroDivisionError
    assert statuses(kept, inner, gone) == [WAITING, DROPPED, DROPPED]


def test_a_unique_key_is_taken_with_the_commit(app: App) -> None:
    greet = greeting(unique=Unique(by=lambda user: user.email))
    with transaction.atomic():
        first = greet(new_user()).dispatch_sync()
    with transaction.atomic():
        second = greet(new_user()).dispatch_sync()
    assert (second.id, second.is_existing) == (first.id, True)


async def test_code_on_an_event_loop_commits_in_threads(app: App) -> None:
    greet = greeting()

    def check_out() -> TaskHandle[Any]:
        with transaction.atomic():
            handle: TaskHandle[Any] = greet(new_user()).dispatch_sync()
        return handle

    handle = await sync_to_async(check_out)()
    assert await handle.status() == WAITING
    await app.connections.close()


@pytest.mark.parametrize("is_async", [True, False])
def test_an_atomic_task_is_settled_in_its_own_transaction(app: App, is_async: bool) -> None:
    following = greeting()

    async def on_loop(user: User) -> str:
        await User.objects.acreate(email="new")
        await following(user).dispatch()
        return "made"

    def in_thread(user: User) -> str:
        User.objects.create(email="new")
        following(user).dispatch_sync()
        return "made"

    function: Any = on_loop if is_async else in_thread
    run = task(name=name(), atomic=True, result_ttl=60)(function)
    handle = run(new_user()).dispatch_sync()
    work(app)
    assert handle.result_sync(5) == "made"
    assert User.objects.filter(email="new").count() == 1
    assert tables_of_core() == []


def test_an_atomic_task_that_fails_leaves_nothing(app: App) -> None:
    following = greeting()

    @task(name=name(), atomic=True, max_attempts=2, retry_delay=0)
    def fail_once(user: User) -> None:
        runs.append(len(runs))
        User.objects.create(email=f"new {len(runs)}")
        following(user).dispatch_sync()
        if len(runs) == 1:
            raise ZeroDivisionError

    runs: list[int] = []
    handle = fail_once(new_user()).dispatch_sync()
    work(app)
    assert handle.status_sync() == TaskStatus.ENDED
    emails = User.objects.filter(email__startswith="new").values_list("email", flat=True)
    assert list(emails) == ["new 2"]


def test_tables_that_a_former_outbox_left_are_still_looked_at(app: App) -> None:
    from asynctasq.sending import tables

    with connections["default"].cursor() as cursor:
        for statement in tables.creation("postgresql"):
            cursor.execute(statement.sql)
    try:
        [(owner, database)] = [p for p in app.outbox.databases() if p[1].name == "default"]
        assert not asyncio.run(app.outbox.needs_no_tables(owner, database))
    finally:
        with connections["default"].cursor() as cursor:
            cursor.execute(f"DROP TABLE {tables.OUTBOX}, {tables.DONE}")
