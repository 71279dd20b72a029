"""Tasks in a worker: their threads and connections, their rows and their locks."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import asynctasq
import django
import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async
from asynctasq import Call, Worker, task
from asynctasq_django import (
    adapter,
    defer,
    only,
    prefetch_related,
    select_for_update,
    select_related,
    using,
)
from asynctasq_django.lanes import Lane, close_lanes
from django.db import (
    DatabaseError,
    OperationalError,
    close_old_connections,
    connection,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.models import Prefetch
from djshop.models import Order, User

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh(db: str) -> Iterator[None]:
    asynctasq.init(driver="memory", task_defaults={"max_attempts": 1})
    seen.clear()
    yield
    seen.clear()
    SyncToAsync.single_thread_executor.submit(close_old_connections).result()


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """What is executed on connections that are made from now on."""
    executed: list[str] = []

    def note(execute: Any, sql: str, *rest: Any) -> Any:
        executed.append(sql)
        return execute(sql, *rest)

    def watch(connection: Any, **_: object) -> None:
        if note not in connection.execute_wrappers:
            connection.execute_wrappers.append(note)

    connection_created.connect(watch, weak=False, dispatch_uid="statements")
    yield executed
    connection_created.disconnect(dispatch_uid="statements")


def users(number: int) -> list[User]:
    made = User.objects.bulk_create(User(email=str(i)) for i in range(number))
    connection.close()
    return made


def run(*calls: Call[Any], concurrency: int = 20) -> None:
    async def main() -> None:
        for call in calls:
            await call.dispatch()
        await Worker(burst=True, concurrency=concurrency).run()

    asyncio.run(main())


def server_connections() -> list[str]:
    """What each connection to the test's database did last, but for the one that asks."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid != pg_backend_pid()"
        )
        return [query for (query,) in cursor.fetchall()]


def connections_left(most: int = 0) -> list[str]:
    """As above, once there are no more than these: a server's process outlives its connection."""
    deadline = time.monotonic() + 10
    while len(left := server_connections()) > most and time.monotonic() < deadline:
        time.sleep(0.02)
    connection.close()
    return left[most:]


@task
async def rename(user: User) -> None:
    user.name = f"async {user.email}"
    await user.asave()


@task
def rename_in_thread(user: User) -> None:
    user.name = f"sync {user.email}"
    user.save()


def test_async_and_sync_tasks_use_their_rows() -> None:
    one, two = users(2)
    run(rename(one), rename_in_thread(two))
    names = User.objects.order_by("email").values_list("name", flat=True)
    assert list(names) == ["async 0", "sync 1"]


def test_many_tasks_leave_as_many_connections_as_there_were() -> None:
    made = users(400)
    before = len(server_connections())
    run(*(rename(user) for user in made[:200]), *(rename_in_thread(user) for user in made[200:]))
    assert connections_left(before) == []
    assert User.objects.exclude(name="").count() == 400


@pytest.mark.parametrize("rename", [rename, rename_in_thread])
def test_kept_connections_are_used_again_and_closed_with_the_worker(
    rename: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    made, opened = users(100), []
    connection_created.connect(lambda **_: opened.append(1), weak=False, dispatch_uid="opened")
    try:
        run(*(rename(user) for user in made), concurrency=4)
    finally:
        connection_created.disconnect(dispatch_uid="opened")
    assert len(opened) <= 4 + 20  # tasks at once, and batches that overlapped
    assert connections_left() == []


@pytest.mark.parametrize("rename", [rename, rename_in_thread])
def test_the_pool_of_psycopg_serves_more_tasks_than_it_has_connections(
    rename: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if django.VERSION < (5, 1):
        pytest.skip("pools came with Django 5.1")
    made = users(100)
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", {"pool": {"max_size": 4}})
    run(*(rename(user) for user in made))
    assert connections_left(4) == []
    connection.close_pool()  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert User.objects.exclude(name="").count() == 100


def test_the_rows_of_a_batch_are_one_query(statements: list[str]) -> None:
    made = users(50)

    @task(name="note")
    async def note(user: User) -> None:
        seen.append(user)

    run(*(note(user) for user in made), concurrency=50)
    assert len(seen) == 50
    assert len([sql for sql in statements if sql.startswith("SELECT")]) == 1


def test_orm_calls_of_different_tasks_run_side_by_side() -> None:
    together = threading.Barrier(5, timeout=20)

    @task(name="meet")
    async def meet() -> None:
        await sync_to_async(together.wait)()
        seen.append(await User.objects.acount())

    run(*(meet() for _ in range(5)))
    assert seen == [0] * 5


def test_orm_calls_of_one_task_share_a_connection() -> None:
    def pid() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    @task(name="pids")
    async def pids() -> None:
        seen.extend(await asyncio.gather(*(sync_to_async(pid)() for _ in range(3))))

    run(pids())
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_a_task_that_does_not_use_the_orm_starts_no_thread() -> None:
    @task(name="plain")
    async def plain() -> None:
        seen.append([t.name for t in threading.enumerate() if "asynctasq-django" in t.name])

    run(*(plain() for _ in range(10)))
    assert seen == [[]] * 10


def test_a_transaction_that_a_task_left_open_is_rolled_back_before_the_next_task() -> None:
    (user,) = users(1)

    @task(name="leave_open")
    async def leave_open() -> None:
        await sync_to_async(transaction.atomic().__enter__)()
        await User.objects.aupdate(name="half done")

    @task(name="look")
    async def look(user: User) -> None:
        seen.append((user.name, await sync_to_async(lambda: connection.in_atomic_block)()))

    run(leave_open(), concurrency=1)
    run(look(user), concurrency=1)
    assert seen == [("", False)]


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_a_query_that_outlives_its_task_does_not_hold_up_the_next() -> None:
    @task(name="too_slow", timeout=0.2)
    async def too_slow() -> None:
        await sync_to_async(execute)("SELECT pg_sleep(60)")

    @task(name="count")
    async def count() -> None:
        seen.append(await User.objects.acount())
        await sync_to_async(execute)(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
            "WHERE query = 'SELECT pg_sleep(60)' AND datname = current_database()"
        )

    run(too_slow(), count(), concurrency=1)
    assert seen == [0]


def test_connections_that_the_server_closed_cost_no_attempt() -> None:
    one, two = users(2)

    @task(name="note_attempt")
    async def note_attempt(user: User) -> None:
        seen.append((user.email, asynctasq.current_message().attempt))
        await sync_to_async(execute)(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )

    run(note_attempt(one), note_attempt(two), concurrency=1)
    assert seen == [("0", 1), ("1", 1)]


def order() -> Order:
    made = Order.objects.create(title="book", user=User.objects.create(email="a@example.com"))
    connection.close()
    return made


def test_declared_loading_is_done_with_the_row(statements: list[str]) -> None:
    made, (second, third) = order(), users(2)

    @task(name="loaded")
    async def loaded(
        order: Annotated[Order, select_related("user")],
        user: Annotated[User, prefetch_related("orders")],
        few: Annotated[User, only("email")],
        fewer: Annotated[User, defer("notes")],
    ) -> None:
        before = len(statements)
        seen.append(order.user.email)
        seen.append([o.title for o in user.orders.all()])  # type: ignore[attr-defined]
        seen.append(few.get_deferred_fields() - {"name", "notes"})
        seen.append(fewer.get_deferred_fields())
        seen.append(len(statements) - before)

    run(loaded(made, made.user, second, third))
    assert seen == ["a@example.com", ["book"], set(), {"notes"}, 0]


def test_prefetches_of_one_relation_with_other_querysets_are_kept_apart() -> None:
    made = order()
    Order.objects.create(title="pen", user=made.user)
    connection.close()

    def reading(title: str) -> Any:
        queryset = Order.objects.filter(title=title)

        async def read(user: User) -> None:
            seen.append([title, *(o.title for o in user.orders.all())])  # type: ignore[attr-defined]

        option = prefetch_related(Prefetch("orders", queryset))
        read.__annotations__["user"] = Annotated[User, option]
        return task(name=f"read-{title}")(read)

    run(reading("book")(made.user), reading("pen")(made.user))
    assert sorted(seen) == [["book", "book"], ["pen", "pen"]]


def test_options_are_equal_if_they_load_the_same() -> None:
    prefetches = [prefetch_related(Prefetch("orders")) for _ in range(2)]
    options = {only("email"), only("email"), only("name"), defer("email"), *prefetches}
    assert len(options) == 5


def test_rows_fetched_along_are_not_shared_by_two_tasks() -> None:
    made = order()

    @task(name="related")
    async def related(order: Annotated[Order, select_related("user")]) -> None:
        seen.append(order.user)

    run(related(made), related(made))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0] is not seen[1]


def test_using_reads_from_the_database_it_names(need_database: Any) -> None:
    need_database("other")
    (user,) = users(1)
    User.objects.using("other").create(pk=user.pk, email="replica")

    @task(name="replica")
    async def replica(user: Annotated[User, using("other")]) -> None:
        seen.append(user.email)

    run(replica(user))
    assert seen == ["replica"]


def is_locked(user: User) -> bool:
    """Asked on a connection of its own."""
    try:
        with transaction.atomic():
            User.objects.select_for_update(nowait=True).get(pk=user.pk)
    except OperationalError:
        return True
    finally:
        connection.close()
    return False


Locked = Annotated[User, select_for_update()]


@task
async def change_locked(user: Locked, fail: bool = False) -> None:
    seen.append(await asyncio.to_thread(is_locked, user))
    user.name = "changed"
    await user.asave()
    if fail:
        raise RuntimeError


@task
def change_locked_in_thread(user: Locked, fail: bool = False) -> None:
    thread = threading.Thread(target=lambda: seen.append(is_locked(user)))
    thread.start()
    thread.join()
    user.name = "changed"
    user.save()
    if fail:
        raise RuntimeError


@pytest.mark.parametrize("change", [change_locked, change_locked_in_thread])
def test_a_locked_row_is_the_tasks_own_until_its_commit(change: Any) -> None:
    (user,) = users(1)
    run(change(user))
    user.refresh_from_db()
    assert (seen, user.name, is_locked(user)) == ([True], "changed", False)
    assert connections_left() == []


@pytest.mark.parametrize("change", [change_locked, change_locked_in_thread])
def test_a_task_that_fails_takes_its_changes_to_a_locked_row_back(change: Any) -> None:
    (user,) = users(1)
    run(change(user, fail=True))
    user.refresh_from_db()
    assert (seen, user.name, is_locked(user)) == ([True], "", False)


def test_tasks_with_a_lock_on_one_row_run_one_after_the_other() -> None:
    (user,) = users(1)

    @task(name="add")
    async def add(user: Annotated[User, select_for_update()]) -> None:
        user.notes["count"] = user.notes.get("count", 0) + 1
        await user.asave()

    @task(name="add_in_thread")
    def add_in_thread(user: Annotated[User, select_for_update()]) -> None:
        user.notes["count"] = user.notes.get("count", 0) + 1
        user.save()

    run(*([add(user)] * 10), *([add_in_thread(user)] * 10), concurrency=8)
    user.refresh_from_db()
    assert user.notes == {"count": 20}


def test_nowait_postpones_the_task_instead_of_waiting() -> None:
    (user,) = users(1)

    @task(name="impatient")
    async def impatient(user: Annotated[User, select_for_update(nowait=True)]) -> None:
        message = asynctasq.current_message()
        seen.append((message.attempt, message.postponed > 0))

    @task(name="hold")
    async def hold(user: Annotated[User, select_for_update()]) -> None:
        await impatient(user).on_commit(False).dispatch()
        broker = asynctasq.app.current().open_broker()
        async with asyncio.timeout(20):
            while (await broker.stats())[0].delayed == 0:
                await asyncio.sleep(0.01)

    run(hold(user))
    assert seen == [(1, True)]


def test_a_dispatch_in_a_task_that_holds_a_lock_waits_for_its_commit() -> None:
    (user,) = users(1)

    @task(name="after")
    async def after(user: User) -> None:
        seen.append(user.name)

    @task(name="before")
    async def before(user: Annotated[User, select_for_update()]) -> None:
        user.name = "committed"
        await user.asave()
        handle = await after(user).dispatch()
        seen.append(await handle.status())

    run(before(user))
    assert seen == ["uncommitted", "committed"]


def test_a_dispatch_from_a_sync_task_waits_for_its_atomic_block() -> None:
    (user,) = users(1)

    @task(name="after_sync")
    async def after(user: User) -> None:
        seen.append(user.name)

    @task(name="before_sync")
    def before(user: User) -> None:
        with transaction.atomic():
            user.name = "committed"
            user.save()
            handle = after(user).dispatch_sync()
            seen.append(async_to_sync(handle.status)())

    run(before(user))
    assert seen == ["uncommitted", "committed"]


def test_a_lock_outside_of_a_worker_is_an_error() -> None:
    from asynctasq import ConfigurationError, Ref
    from asynctasq_django import adapter

    ref = Ref("djshop.models.User", 1, options=(select_for_update(),))
    with pytest.raises(ConfigurationError, match="none is running"):
        asyncio.run(adapter.fetch_many([ref]))


def test_a_lane_is_used_again() -> None:
    threads: set[int] = set()

    @task(name="where")
    async def where() -> None:
        threads.add(await sync_to_async(threading.get_ident)())

    run(*(where() for _ in range(20)), concurrency=1)
    assert len(threads) == 1


def test_execute_runs_a_task_with_its_scope() -> None:
    (user,) = users(1)
    asyncio.run(rename(user).execute())
    asyncio.run(rename_in_thread(user).execute())
    user.refresh_from_db()
    assert user.name == "sync 0"
    assert connections_left() == []


def test_kept_connections_of_threads_that_ended_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    (user,) = users(1)
    for _ in range(10):
        asyncio.run(rename_in_thread(user).execute())
    assert connections_left(1) == []
    asyncio.run(close_lanes())
    assert connections_left() == []


def test_an_error_of_the_database_in_a_task_is_the_tasks_own() -> None:
    @task(name="wrong")
    async def wrong() -> None:
        try:
            await sync_to_async(execute)("SELECT nothing FROM nowhere")
        except DatabaseError as e:
            seen.append(type(e).__name__)
            raise

    run(wrong())
    assert seen == ["ProgrammingError"]


def test_a_lane_says_whether_it_is_busy() -> None:
    lane, go_on = Lane(), threading.Event()
    assert not lane.busy
    future = lane.submit(go_on.wait)
    assert lane.busy
    go_on.set()
    future.result()
    assert not lane.busy
    lane.shutdown()


async def test_a_task_that_makes_no_query_pays_for_few_calls() -> None:
    async def run() -> None:
        scope = adapter.task_scope()
        assert scope is not None
        async with scope:
            pass

    await run()
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(event) if "call" in event else None)
    await run()
    sys.setprofile(None)
    assert len(calls) < 25  # 21 when this was written
