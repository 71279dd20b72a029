"""A dispatch waits for the commit of the row that it names, and is dropped with it."""

from __future__ import annotations

import asyncio
import socket
import unittest
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import asynctasq
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asynctasq import BrokerUnavailable, TaskHandle, TaskStatus, Worker, dispatch_many, task
from asynctasq.brokers import Outgoing, QueueStats
from asynctasq.brokers.memory.broker import MemoryBroker
from asynctasq_django import adapter
from asynctasq_django.connections import watch_connections
from asynctasq_django.settings import configure
from django.conf import settings
from django.db import connection, connections, transaction
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from djshop.models import Order, User
from djshop.tasks import rename_in_thread

#: The former is its name since Django 6.1.
set_savepoint = getattr(transaction, "savepoint_create", None) or transaction.savepoint

UNCOMMITTED, DROPPED, WAITING = TaskStatus.UNCOMMITTED, TaskStatus.DROPPED, TaskStatus.WAITING


@task
async def welcome(user: User) -> None: ...


@task
async def send(text: str) -> None: ...


@task
async def rename(user: User) -> None:
    user.name = "async"
    await user.asave()


@task
def fail_in_thread(user: User) -> None:
    with transaction.atomic():
        User.objects.update(name="undone")
        raise ZeroDivisionError


@task
def count_up(pk: int) -> None:
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=pk)
        user.name = str(int(user.name) + 1)
        user.save()


@task
def rename_by_another(user: User) -> None:
    async_to_sync(rename_in_thread(user, "inner").execute)()
    user.refresh_from_db()
    user.name += ", outer"
    user.save()


@pytest.fixture(autouse=True)
def _memory_broker() -> None:
    asynctasq.init(driver="memory")


def status(handle: TaskHandle[None]) -> TaskStatus:
    return asyncio.run(handle.status())


def test_a_row_of_an_open_transaction_is_sent_at_its_commit(alias: str) -> None:
    with transaction.atomic(using=alias):
        user = User.objects.using(alias).create(email="a@example.com")
        handle = welcome(user).dispatch_sync()
        assert status(handle) == UNCOMMITTED
    assert status(handle) == WAITING


def test_nothing_is_sent_after_a_rollback(alias: str) -> None:
    with suppress(ZeroDivisionError), transaction.atomic(using=alias):
        handle = welcome(User.objects.using(alias).create(email="a@example.com")).dispatch_sync()
        raise ZeroDivisionError
    assert status(handle) == DROPPED


def test_a_row_saved_without_a_transaction_is_sent_at_once(alias: str) -> None:
    user = User.objects.using(alias).create(email="a@example.com")
    assert status(welcome(user).dispatch_sync()) == WAITING


def test_a_row_that_a_transaction_only_read_is_sent_at_once(alias: str) -> None:
    User.objects.using(alias).create(email="a@example.com")
    with transaction.atomic(using=alias):
        user = User.objects.using(alias).get()
        assert status(welcome(user).dispatch_sync()) == WAITING


@pytest.mark.parametrize("change", ["update", "bulk_create", "raw", "other_table", "with"])
def test_changes_that_leave_no_trace_on_the_instance_count(db: str, change: str) -> None:
    user = User.objects.create(email="a@example.com")
    with transaction.atomic():
        if change == "update":
            User.objects.update(name="x")
        elif change == "bulk_create":
            User.objects.bulk_create([User(email="b@example.com")])
        elif change == "other_table":
            Order.objects.create(title="book", user=user)
        else:
            sql = "UPDATE djshop_user SET name = 'x'"
            sql = f"WITH one AS ({sql} RETURNING id) SELECT 1" if change == "with" else sql
            with connection.cursor() as cursor:
                cursor.execute(sql)
        handle = welcome(user).dispatch_sync()
        assert status(handle) == UNCOMMITTED
    assert status(handle) == WAITING


def test_the_next_transaction_starts_clean(db: str) -> None:
    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
    with transaction.atomic():
        assert status(welcome(user).dispatch_sync()) == WAITING


def test_an_inner_block_waits_for_the_outer_commit(db: str) -> None:
    with transaction.atomic():
        with transaction.atomic():
            handle = welcome(User.objects.create(email="a@example.com")).dispatch_sync()
        assert status(handle) == UNCOMMITTED
    assert status(handle) == WAITING


def test_a_savepoint_that_is_rolled_back_drops_what_was_dispatched_in_it(db: str) -> None:
    with transaction.atomic():
        kept = welcome(User.objects.create(email="a@example.com")).dispatch_sync()
        with suppress(ZeroDivisionError), transaction.atomic():
            lost = welcome(User.objects.create(email="b@example.com")).dispatch_sync()
            raise ZeroDivisionError
        assert status(lost) == DROPPED
    assert (status(kept), status(lost)) == (WAITING, DROPPED)


def test_each_database_has_a_commit_of_its_own(need_database: Callable[[str], str]) -> None:
    one, other = need_database("default"), need_database("other")
    with transaction.atomic(using=one):
        here = welcome(User.objects.using(one).create(email="a")).dispatch_sync()
        with transaction.atomic(using=other):
            there = welcome(User.objects.using(other).create(email="b")).dispatch_sync()
            assert (status(here), status(there)) == (UNCOMMITTED, UNCOMMITTED)
        assert (status(here), status(there)) == (UNCOMMITTED, WAITING)
    assert status(here) == WAITING


def test_a_broken_connection_drops_the_dispatch(db: str) -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        handle = welcome(User.objects.create(email="a@example.com")).dispatch_sync()
        connection.close()
        raise ZeroDivisionError
    assert status(handle) == DROPPED


def test_dispatches_leave_in_the_order_of_their_calls(db: str) -> None:
    ran: list[int] = []

    @task(name="in_order")
    async def note(number: int, user: User) -> None:
        ran.append(number)

    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
        for number in range(20):
            note(number, user).dispatch_sync()
    asyncio.run(asynctasq.Worker(burst=True, concurrency=1).run())
    assert ran == list(range(20))


@dataclass
class Send:
    """A deferred dispatch, as core makes one."""

    name: str
    log: list[str]
    fails: bool = False

    def __call__(self) -> None:
        self.log.append(f"sent {self.name}")
        if self.fails:
            raise BrokerUnavailable(self.name)

    async def send_async(self) -> None:
        self()

    def drop(self) -> None:
        self.log.append(f"dropped {self.name}")


def test_a_dispatch_that_fails_does_not_keep_back_the_others(alias: str) -> None:
    log: list[str] = []

    def write() -> None:
        user = User.objects.using(alias).create(email="a@example.com")
        adapter.after_commit(user, Send("a", log))
        adapter.after_commit(user, Send("b", log, fails=True))
        with transaction.atomic(using=alias):
            adapter.after_commit(user, Send("c", log))
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            adapter.after_commit(user, Send("d", log))
            raise ZeroDivisionError
        transaction.on_commit(partial(log.append, "own callback"), using=alias)
        adapter.after_commit(user, Send("e", log, fails=True))
        adapter.after_commit(user, Send("f", log))

    with pytest.raises(BrokerUnavailable, match="b"):
        transaction.atomic(using=alias)(write)()
    assert log == ["dropped d", "sent a", "sent b", "sent c", "sent e", "sent f"]
    assert User.objects.using(alias).exists()


def test_all_dispatches_leave_before_callbacks_registered_after_the_first(db: str) -> None:
    log: list[str] = []
    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
        transaction.on_commit(partial(log.append, "own before"))
        adapter.after_commit(user, Send("a", log))
        transaction.on_commit(partial(log.append, "own after"))
        adapter.after_commit(user, Send("b", log))
    assert log == ["own before", "sent a", "sent b", "own after"]


def test_a_failing_callback_of_the_application_drops_dispatches_only_if_it_comes_first(
    db: str,
) -> None:
    log: list[str] = []

    @transaction.atomic
    def write(*, is_first: bool) -> None:
        user = User.objects.create(email="a@example.com")
        for name in "ab":
            if (name == "a") is is_first:
                transaction.on_commit(lambda: 1 // 0)
            adapter.after_commit(user, Send(name, log))

    with pytest.raises(ZeroDivisionError):
        write(is_first=False)
    assert log == ["sent a", "sent b"]
    log.clear()
    with pytest.raises(ZeroDivisionError):
        write(is_first=True)
    assert sorted(log) == ["dropped a", "dropped b"]


@pytest.fixture
def away() -> Iterator[None]:
    """A Redis that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        asynctasq.init(redis={"url": url, "timeout": 1.0, "connect_timeout": 1.0})
        yield
        asynctasq.init(driver="memory")


def test_a_commit_waits_once_for_a_broker_that_is_away(db: str, away: None) -> None:
    @transaction.atomic
    def write() -> None:
        user = User.objects.create(email="a@example.com")
        for _ in range(5):
            welcome(user).dispatch_sync()
        async_to_sync(dispatch_many)(welcome(user) for _ in range(20))
        transaction.on_commit(lambda: None)
        welcome(user).dispatch_sync()

    started = monotonic()
    with pytest.raises(BrokerUnavailable):
        write()
    assert monotonic() - started < 4


def test_dispatches_of_a_commit_share_a_round_trip(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[list[str]] = []
    put = MemoryBroker.put

    async def noted(self: MemoryBroker, messages: Sequence[Outgoing]) -> None:
        trips.append([message.id for message in messages])
        await put(self, messages)

    monkeypatch.setattr(MemoryBroker, "put", noted)
    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
        handles = [welcome(user).dispatch_sync() for _ in range(5)]
        handles += async_to_sync(dispatch_many)(welcome(user) for _ in range(5))
    assert trips == [[handle.id for handle in handles]]


def test_a_savepoint_rolled_back_by_hand_drops_what_was_dispatched_since(alias: str) -> None:
    with transaction.atomic(using=alias):
        user = User.objects.using(alias).create(email="a@example.com")
        before = welcome(user).dispatch_sync()
        outer = set_savepoint(using=alias)
        dropped = [welcome(user).dispatch_sync()]
        released = set_savepoint(using=alias)
        dropped.append(welcome(user).dispatch_sync())
        transaction.savepoint_commit(released, using=alias)
        with transaction.atomic(using=alias):
            dropped.append(welcome(user).dispatch_sync())
        transaction.savepoint_rollback(outer, using=alias)
        assert {status(handle) for handle in dropped} == {DROPPED}
        after = welcome(user).dispatch_sync()
    assert (status(before), status(after)) == (WAITING, WAITING)
    assert {status(handle) for handle in dropped} == {DROPPED}


def test_a_savepoint_set_before_the_first_dispatch_can_be_rolled_back(db: str) -> None:
    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
        first = set_savepoint()
        transaction.clean_savepoints()
        lost = welcome(user).dispatch_sync()
        transaction.savepoint_rollback(first)
        again = welcome(user).dispatch_sync()
        kept = set_savepoint()
        transaction.savepoint_rollback(kept)
    assert (status(lost), status(again)) == (DROPPED, WAITING)


def test_a_savepoint_of_raw_sql_counts(db: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        user = User.objects.create(email="a@example.com")
        kept = welcome(user).dispatch_sync()
        cursor.execute("savepoint mine")
        lost = welcome(user).dispatch_sync()
        cursor.execute("ROLLBACK WORK TO mine;")
    assert (status(kept), status(lost)) == (WAITING, DROPPED)


def test_on_commit_false_sends_now(db: str) -> None:
    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
        assert status(welcome(user).on_commit(False).dispatch_sync()) == WAITING


def test_on_commit_ties_a_call_without_instances_to_the_transaction(db: str) -> None:
    with transaction.atomic():
        handles = [
            send("x").on_commit().dispatch_sync(),
            send("x").on_commit("default").dispatch_sync(),
            send("x").on_commit(connection).dispatch_sync(),
            send("x").on_commit(connections["default"]).dispatch_sync(),
        ]
        assert {status(handle) for handle in handles} == {UNCOMMITTED}
        assert status(send("x").dispatch_sync()) == WAITING
    assert {status(handle) for handle in handles} == {WAITING}


def test_on_commit_without_a_transaction_sends_now(db: str) -> None:
    assert status(send("x").on_commit("default").dispatch_sync()) == WAITING
    assert status(send("x").on_commit().dispatch_sync()) == WAITING


def test_on_commit_of_an_unknown_alias_is_an_error(db: str) -> None:
    with pytest.raises(asynctasq.ConfigurationError, match="on_commit"):
        send("x").on_commit("elsewhere").dispatch_sync()


def test_a_transaction_begun_by_hand_is_refused(db: str) -> None:
    transaction.set_autocommit(False)
    try:
        user = User.objects.create(email="a@example.com")
        with pytest.raises(transaction.TransactionManagementError):
            welcome(user).dispatch_sync()
        assert status(welcome(user).on_commit(False).dispatch_sync()) == WAITING
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_an_async_dispatch_below_synchronous_code_sees_its_transaction(db: str) -> None:
    with transaction.atomic():
        user = User.objects.create(email="a@example.com")
        handle = async_to_sync(welcome(user).dispatch)()
        assert status(handle) == UNCOMMITTED
    assert status(handle) == WAITING


async def test_an_async_dispatch_from_a_thread_of_the_loop_sees_its_transaction(db: str) -> None:
    def view() -> tuple[TaskHandle[None], TaskStatus]:
        with transaction.atomic():
            user = User.objects.create(email="a@example.com")
            handle = async_to_sync(welcome(user).dispatch)()
            return handle, async_to_sync(handle.status)()

    async with ThreadSensitiveContext():
        handle, inside = await sync_to_async(view)()
        await sync_to_async(connections.close_all)()
    assert inside == UNCOMMITTED
    assert await handle.status() == WAITING


async def test_a_transaction_opened_from_async_code_is_seen(db: str) -> None:
    block = transaction.atomic()
    async with ThreadSensitiveContext():
        await sync_to_async(block.__enter__)()
        user = await User.objects.acreate(email="a@example.com")
        handle = await welcome(user).dispatch()
        assert await handle.status() == UNCOMMITTED
        await sync_to_async(block.__exit__)(None, None, None)
        assert await handle.status() == WAITING
        await sync_to_async(connections.close_all)()


async def test_a_dispatch_from_async_code_is_sent_at_once(db: str) -> None:
    async with ThreadSensitiveContext():
        user = await User.objects.acreate(email="a@example.com")
        handle = await welcome(user).dispatch()
        assert await handle.status() == WAITING
        await sync_to_async(connections.close_all)()


async def test_the_transaction_of_another_thread_does_not_matter(db: str) -> None:
    user = await sync_to_async(User.objects.create)(email="a@example.com")
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def other() -> None:
        try:
            with transaction.atomic():
                User.objects.update(name="x")
                loop.call_soon_threadsafe(began.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        finally:
            connections.close_all()

    running = asyncio.create_task(asyncio.to_thread(other))
    await began.wait()
    handle = await welcome(user).dispatch()
    assert await handle.status() == WAITING
    go_on.set()
    await running
    await sync_to_async(connections.close_all)()


def test_a_transaction_begun_before_anybody_watched_counts_as_written(db: str) -> None:
    connection.close()
    del connections["default"]
    from asynctasq_django.connections import _remember
    from django.db.backends.signals import connection_created

    connection_created.disconnect(dispatch_uid="asynctasq_django")
    try:
        user = User.objects.create(email="a@example.com")
        with transaction.atomic():
            watch_connections()
            handle = welcome(user).dispatch_sync()
            assert status(handle) == UNCOMMITTED
    finally:
        connection_created.connect(_remember, dispatch_uid="asynctasq_django")
    assert status(handle) == WAITING


def test_a_wrapper_of_the_application_is_taken_off_as_it_should(db: str) -> None:
    del connections["default"]
    seen: list[str] = []

    def spy(execute, sql, *rest):  # type: ignore[no-untyped-def]
        seen.append(sql)
        return execute(sql, *rest)

    with connections["default"].execute_wrapper(spy):
        User.objects.count()
    before = len(seen)
    User.objects.count()
    assert before == len(seen) >= 1


def test_watching_runs_no_query_of_its_own(db: str) -> None:
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        welcome(User.objects.create(email="a@example.com")).dispatch_sync()
    assert [q["sql"].split()[0] for q in queries] == ["BEGIN", "INSERT", "COMMIT"]


class _ApplicationTests(TestCase):
    """As applications test themselves: everything in a transaction that is never committed."""

    def executed_one_by_one(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            handles = [welcome(User.objects.create(email=str(i))).dispatch_sync() for i in range(2)]
        callbacks[0]()
        assert [status(handle) for handle in handles] == [WAITING, UNCOMMITTED]

    def executed(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            handle = welcome(User.objects.create(email="a@example.com")).dispatch_sync()
            assert status(handle) == UNCOMMITTED
        assert len(callbacks) == 1
        assert status(handle) == WAITING

    def only_captured(self) -> None:
        with self.captureOnCommitCallbacks():
            handle = welcome(User.objects.create(email="a@example.com")).dispatch_sync()
        assert status(handle) == UNCOMMITTED

    async def run_by_a_worker(self) -> None:
        user = await User.objects.acreate(email="a@example.com")
        await rename(user).on_commit(False).dispatch()
        await Worker(burst=True).run()
        await user.arefresh_from_db()
        assert user.name == "async"

    def run_with_an_empty_queue(self) -> None:
        handles = [send("x").on_commit(False).dispatch_sync() for _ in range(2)]
        assert [status(handle) for handle in handles] == [WAITING, WAITING]
        assert waiting() == 2

    async def executed_here(self) -> None:
        user = await User.objects.acreate(email="a@example.com")
        await rename(user).execute()
        await user.arefresh_from_db()
        assert user.name == "async"

    async def executed_in_a_thread(self) -> None:
        user = await User.objects.acreate(email="a@example.com")
        await rename_in_thread(user, "thread").execute()
        await user.arefresh_from_db()
        assert user.name == "thread"
        with pytest.raises(ZeroDivisionError):
            await fail_in_thread(user).execute()
        await user.arefresh_from_db()
        assert user.name == "thread"

    async def executed_in_threads_at_once(self) -> None:
        user = await User.objects.acreate(email="a@example.com", name="0")
        await asyncio.gather(*(count_up(user.pk).execute() for _ in range(10)))
        await user.arefresh_from_db()
        assert user.name == "10"

    async def executed_by_one_that_is_executed(self) -> None:
        user = await User.objects.acreate(email="a@example.com")
        await rename_by_another(user).execute()
        await user.arefresh_from_db()
        assert user.name == "inner, outer"

    async def run_in_a_thread_by_a_worker(self) -> None:
        user = await User.objects.acreate(email="a@example.com")
        await rename_in_thread(user, "worker").on_commit(False).dispatch()
        await Worker(burst=True).run()
        await user.arefresh_from_db()
        assert user.name == "worker"

    def executed_from_synchronous_code(self) -> None:
        user = User.objects.create(email="a@example.com")
        for call, name in ((rename_in_thread(user, "thread"), "thread"), (rename(user), "async")):
            for run in (asyncio.run, async_to_sync(self.awaited)):
                run(call.execute())
                user.refresh_from_db()
                assert user.name == name
                User.objects.update(name="")

    async def awaited(self, coroutine: Coroutine[Any, Any, None]) -> None:
        await coroutine


_ApplicationTests.__test__ = False  # type: ignore[attr-defined]  # run by the test below


NAMES = [name for name in vars(_ApplicationTests) if name.startswith(("executed", "run", "only"))]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", NAMES)
def test_applications_can_use_djangos_test_case(db: str, name: str) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([_ApplicationTests(name)]).run(result)
    assert result.testsRun == 1
    assert result.errors + result.failures == []


class _OverriddenTests(_ApplicationTests):
    """The queue of a class's tests."""

    def found_as_left(self) -> None:
        assert asynctasq.app.current().config.driver == "sqlite"
        send("x").on_commit(False).dispatch_sync()


_OverriddenTests.__test__ = False  # type: ignore[attr-defined]


def waiting() -> int:
    """How many messages wait in all queues."""

    async def stats() -> list[QueueStats]:
        return await asynctasq.app.current().open_broker().stats()

    return sum(queue.waiting for queue in asyncio.run(stats()))


def test_the_memory_queue_is_empty_at_the_start_of_each_test(db: str, tmp_path: Path) -> None:
    result = unittest.TestResult()
    configure(settings)
    twice = [_ApplicationTests("run_with_an_empty_queue") for _ in range(2)]
    unittest.TestSuite(twice).run(result)
    assert (result.testsRun, result.errors + result.failures) == (2, [])
    queue = {"driver": "sqlite", "sqlite": str(tmp_path / "queue.db")}
    with override_settings(ASYNCTASQ=queue):
        other = unittest.TestResult()
        unittest.TestSuite([_OverriddenTests("found_as_left") for _ in range(2)]).run(other)
        assert waiting() == 2
    assert (other.testsRun, other.errors + other.failures) == (2, [])


def test_a_queue_that_the_application_has_configured_itself_is_left_alone(db: str) -> None:
    configure(settings)
    asynctasq.init(driver="memory", max_deliveries=9)
    send("x").dispatch_sync()
    result = unittest.TestResult()
    unittest.TestSuite([_ApplicationTests("executed_here")]).run(result)
    assert (result.testsRun, result.errors + result.failures) == (1, [])
    assert (waiting(), asynctasq.app.current().config.max_deliveries) == (1, 9)
