"""Dispatching: from loops, threads and forks, one by one and in bulk, with and without a commit."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import asynctasq.app
import pytest
import redis.asyncio
from asynctasq import (
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    DispatchDropped,
    PayloadTooLarge,
    SerializationError,
    TaskCancelled,
    TaskHandle,
    TaskStatus,
    UnsavedModelError,
    dispatch_many,
    task,
)
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.brokers.memory.broker import MemoryBroker
from toy_orm import Toy, User

from ..servers import redis_url

Work = Callable[..., Awaitable[None]]

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@task
async def note(value: object) -> None:
    ran.append(value)


@task
async def greet(user: User) -> None:
    ran.append(user.name)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of each put of the memory broker: its round trips."""
    seen: list[list[str]] = []
    put = MemoryBroker.put

    async def noted(self: MemoryBroker, messages: Sequence[Outgoing]) -> None:
        seen.append([m.id for m in messages])
        await asyncio.sleep(0)
        await put(self, messages)

    monkeypatch.setattr(MemoryBroker, "put", noted)
    return seen


@pytest.mark.parametrize(("step_seconds", "least"), [(0.0, 3 + 6), (0.001, 280)])
async def test_dispatching_many_lets_the_loop_go_on_meanwhile(
    app: App, monkeypatch: pytest.MonkeyPatch, step_seconds: float, least: int
) -> None:
    """However fast the clock goes: after so many handles and messages, and after so long."""
    clock = itertools.count(0.0, step_seconds)
    monkeypatch.setattr(asynctasq.app, "monotonic", lambda: next(clock))
    turns, is_over = 0, False

    async def others() -> None:
        nonlocal turns
        while not is_over:
            await asyncio.sleep(0)
            turns += 1

    waiting = asyncio.create_task(others())
    await dispatch_many([note(n) for n in range(3000)])
    is_over = True
    await waiting
    assert turns >= least


async def test_many_go_in_one_round_trip_and_in_order(
    app: App, work: Work, puts: list[list[str]]
) -> None:
    handles = await dispatch_many(note(i) for i in range(50))
    assert puts == [[h.id for h in handles]]
    await work(concurrency=1)
    assert ran == list(range(50))


async def test_nothing_of_many_is_sent_when_one_cannot_be(app: App, puts: list[list[str]]) -> None:
    with pytest.raises(SerializationError, match=r"value: builtins\.object"):
        await dispatch_many([note(1), note(object())])
    assert puts == []
    assert await dispatch_many([]) == []
    assert puts == []


async def test_concurrent_dispatches_share_round_trips_and_keep_their_order(
    app: App, work: Work, puts: list[list[str]]
) -> None:
    handles = await asyncio.gather(*(note(i).dispatch() for i in range(100)))
    assert len(puts) <= 2
    assert [i for ids in puts for i in ids] == [h.id for h in handles]
    await work(concurrency=1)
    assert ran == list(range(100))


async def test_a_cancelled_dispatch_takes_no_other_with_it(app: App, puts: list[list[str]]) -> None:
    cancelled = asyncio.create_task(note(1).dispatch())
    kept = asyncio.create_task(note(2).dispatch())
    await asyncio.sleep(0)
    cancelled.cancel()
    assert (await kept).id in puts[0]
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_broker_that_refuses_fails_every_dispatch_of_the_round_trip(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = MemoryBroker.put

    async def refuse(self: MemoryBroker, messages: Sequence[Outgoing]) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(MemoryBroker, "put", refuse)
    results = await asyncio.gather(*(note(i).dispatch() for i in range(3)), return_exceptions=True)
    assert all(isinstance(r, BrokerUnavailable) for r in results)
    monkeypatch.setattr(MemoryBroker, "put", put)
    assert await (await note(1).dispatch()).status() is TaskStatus.WAITING


async def test_a_message_may_be_as_large_as_the_limit_and_no_larger(
    configure: Callable[..., App],
) -> None:
    configure(max_payload_bytes=1000)
    await note("x" * 800).dispatch()
    with pytest.raises(PayloadTooLarge, match=r"call of .*note: \d+ bytes.*max_payload_bytes"):
        await note("x" * 1000).dispatch()


async def test_the_default_limit_is_a_mebibyte(app: App) -> None:
    await note(b"x" * (1024 * 1024 - 1000)).dispatch()
    with pytest.raises(PayloadTooLarge):
        await note(b"x" * (1024 * 1024)).dispatch()


# --- from synchronous code --------------------------------------------------------------


def test_synchronous_code_dispatches_without_a_loop(any_app: App, work: Work) -> None:
    handle = note(1).dispatch_sync()
    assert isinstance(handle, TaskHandle)

    async def rest() -> None:
        assert await handle.status() is TaskStatus.WAITING
        await work()

    asyncio.run(rest())
    assert ran == [1]


async def test_synchronous_dispatch_inside_a_running_loop(any_app: App, work: Work) -> None:
    note(1).dispatch_sync()
    await work()
    assert ran == [1]


async def test_many_threads_dispatch_at_once(any_app: App, work: Work) -> None:
    with ThreadPoolExecutor(16) as threads:
        handles = list(threads.map(lambda i: note(i).dispatch_sync(), range(200)))
    assert len({h.id for h in handles}) == 200
    await work(concurrency=100)
    assert sorted(ran) == list(range(200))


async def test_a_thread_with_a_loop_of_its_own_dispatches(any_app: App, work: Work) -> None:
    thread = threading.Thread(target=lambda: asyncio.run(_dispatch_one()))
    thread.start()
    await asyncio.to_thread(thread.join)
    await work()
    assert ran == ["from a loop"]


async def run(work: Work, **options: Any) -> None:
    await work(**options)


async def _dispatch_one() -> None:
    await note("from a loop").dispatch()


async def test_a_sync_task_dispatches_further_tasks(any_app: App, work: Work) -> None:
    @task
    def first() -> None:
        note("second").dispatch_sync()

    await first().dispatch()
    await work()
    assert ran == ["second"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("any_app", ["sqlite", "redis"], indirect=True)
def test_a_forked_child_dispatches_and_its_parent_still_does(
    any_app: App, work: Work, capfd: pytest.CaptureFixture[str]
) -> None:
    note("before").dispatch_sync()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            note("in the child").dispatch_sync()
            asyncio.run(_dispatch_one())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    note("after").dispatch_sync()
    asyncio.run(run(work, concurrency=1))
    assert ran == ["before", "in the child", "from a loop", "after"]
    assert capfd.readouterr().err == ""


# --- waiting for a commit ---------------------------------------------------------------


@pytest.fixture
def ann(toy: Toy) -> User:
    """A user whose row the open transaction wrote."""
    user = User(1, "Ann")
    toy.pending.append(user)
    return user


async def test_an_uncommitted_row_is_sent_with_its_commit(toy: Toy, ann: User, work: Work) -> None:
    handle = await greet(ann).dispatch()
    assert len(handle.id) == 32
    assert await handle.status() is TaskStatus.UNCOMMITTED
    await work()
    assert ran == []
    toy.save(ann)
    toy.commit()
    assert await handle.status() is TaskStatus.WAITING
    await work()
    assert ran == ["Ann"]


async def test_a_rollback_drops_what_waited(toy: Toy, ann: User, work: Work) -> None:
    @task(result_ttl=60)
    async def keep(user: User) -> None: ...

    handle = await keep(ann).dispatch()
    toy.roll_back()
    assert await handle.status() is TaskStatus.DROPPED
    with pytest.raises(DispatchDropped, match="rolled back"):
        await handle.result(1)
    assert not await handle.cancel()
    await work()


async def test_a_call_cannot_be_cancelled_while_the_commit_sends_it(
    toy: Toy, ann: User, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, proceed = asyncio.Event(), asyncio.Event()
    broker = asynctasq.app.current().open_broker()
    put = broker.put

    async def slow(messages: Sequence[Outgoing]) -> None:
        sending.set()
        await proceed.wait()
        await put(messages)

    monkeypatch.setattr(broker, "put", slow)
    handle = await greet(ann).dispatch()
    toy.save(ann)
    commit = asyncio.create_task(toy.commit_async())
    async with asyncio.timeout(10):
        await sending.wait()
    assert await handle.status() is TaskStatus.UNCOMMITTED
    assert not await handle.cancel()
    proceed.set()
    await commit
    assert await handle.status() is TaskStatus.WAITING
    await work()
    assert ran == ["Ann"]


@pytest.mark.parametrize("arrived", [False, True])
async def test_a_call_that_could_not_be_sent_after_the_commit_says_so(
    toy: Toy, ann: User, work: Work, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    @task(result_ttl=60)
    async def keep(user: User) -> str:
        return user.name

    broker = asynctasq.app.current().open_broker()
    put = broker.put

    async def failing(messages: Sequence[Outgoing]) -> None:
        if arrived:
            await put(messages)
        raise BrokerUnavailable("the connection broke")

    handle = await keep(ann).dispatch()
    toy.save(ann)
    with monkeypatch.context() as patch:
        patch.setattr(broker, "put", failing)
        with pytest.raises(BrokerUnavailable):
            await toy.commit_async()
    if arrived:
        assert await handle.status() is TaskStatus.WAITING
        await work()
        assert await handle.status() is TaskStatus.DONE
        assert await handle.result() == "Ann"
    else:
        assert await handle.status() is TaskStatus.DROPPED
        with pytest.raises(DispatchDropped, match="could not be sent after the commit"):
            await handle.result(30)


async def test_whoever_waits_for_the_result_learns_of_the_rollback(toy: Toy, ann: User) -> None:
    @task(result_ttl=60)
    async def keep(user: User) -> None: ...

    handle = await keep(ann).dispatch()
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0.05)
    toy.roll_back()
    async with asyncio.timeout(5):
        with pytest.raises(DispatchDropped):
            await waiting


async def test_deferred_calls_keep_their_order(toy: Toy, ann: User, work: Work) -> None:
    toy.save(ann)
    for i in range(5):
        await note([ann, i]).dispatch()
    await dispatch_many([note([ann, 5]), note([ann, 6])])
    note([ann, 7]).dispatch_sync()
    await toy.commit_async()
    await work(concurrency=1)
    assert [i for _, i in ran] == list(range(8))


@pytest.mark.parametrize("end", ["commit", "commit_async"])
async def test_what_waited_for_one_commit_goes_in_one_round_trip(
    toy: Toy, ann: User, work: Work, puts: list[list[str]], end: str
) -> None:
    toy.save(ann)
    handles = [await note([ann, i]).dispatch() for i in range(5)]
    handles += await dispatch_many(note([ann, i]) for i in range(5, 20))
    await _end(toy, end)
    assert puts == [[handle.id for handle in handles]]


@pytest.mark.parametrize("end", ["commit", "commit_async"])
async def test_a_message_that_the_broker_refuses_keeps_back_no_other(
    toy: Toy, ann: User, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.save(ann)
    handles = [await note([ann, i]).on_queue(f"q{i}").dispatch() for i in range(3)]
    put = MemoryBroker.put

    async def refuse(self: MemoryBroker, messages: Sequence[Outgoing]) -> None:
        if any(message.queue == "q1" for message in messages):
            raise BrokerError("this queue is spoilt")
        await put(self, messages)

    monkeypatch.setattr(MemoryBroker, "put", refuse)
    with pytest.raises(BrokerError, match="spoilt"):
        await _end(toy, end)
    waiting, dropped = TaskStatus.WAITING, TaskStatus.DROPPED
    assert [await h.status() for h in handles] == [waiting, dropped, waiting]


@pytest.mark.parametrize("end", ["commit", "commit_async"])
async def test_a_broker_that_is_away_is_waited_for_once_for_all_of_a_commit(
    toy: Toy, ann: User, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.save(ann)
    for i in range(5):
        await note([ann, i]).dispatch()
    waits: list[int] = []

    async def away(self: MemoryBroker, messages: Sequence[Outgoing]) -> None:
        waits.append(len(messages))
        raise BrokerUnavailable("away")

    monkeypatch.setattr(MemoryBroker, "put", away)
    with pytest.raises(BrokerUnavailable):
        await _end(toy, end)
    assert waits == [5]


async def _end(toy: Toy, end: str) -> None:
    if end == "commit":
        await asyncio.to_thread(toy.commit)
    else:
        await toy.commit_async()


async def test_a_call_with_rows_of_several_transactions_waits_for_the_last(
    toy: Toy, ann: User
) -> None:
    toy.pending.append(bob := User(2, "Bob"))
    handle = await note([ann, bob]).dispatch()
    first, second = toy.waiting
    first()
    assert await handle.status() is TaskStatus.UNCOMMITTED
    await second.send_async()
    assert await handle.status() is TaskStatus.WAITING


async def test_a_call_with_rows_of_several_transactions_is_dropped_with_any_of_them(
    toy: Toy, ann: User
) -> None:
    toy.pending.append(bob := User(2, "Bob"))
    handle = await note([ann, bob]).dispatch()
    first, second = toy.waiting
    first.drop()
    second()
    assert await handle.status() is TaskStatus.DROPPED


async def test_a_bulk_dispatch_defers_only_what_must_wait(toy: Toy, ann: User, work: Work) -> None:
    first, second = await dispatch_many([note(ann), note(2)])
    assert await first.status() is TaskStatus.UNCOMMITTED
    assert await second.status() is TaskStatus.WAITING


async def test_a_row_that_was_only_read_is_sent_at_once(toy: Toy) -> None:
    handle = await greet(User(1)).dispatch()
    assert await handle.status() is TaskStatus.WAITING


async def test_a_deeply_nested_uncommitted_row_is_found(toy: Toy, ann: User) -> None:
    handle = await note({"a": [(1, {"b": {2: [ann]}})]}).dispatch()
    assert await handle.status() is TaskStatus.UNCOMMITTED


async def test_on_commit_false_sends_now(toy: Toy, ann: User) -> None:
    handle = await greet(ann).on_commit(False).dispatch()
    assert await handle.status() is TaskStatus.WAITING


async def test_on_commit_true_waits_for_the_open_transaction_of_the_context(toy: Toy) -> None:
    without = await note(1).on_commit().dispatch()
    assert await without.status() is TaskStatus.WAITING
    toy.transaction = object()
    handle = await note(1).on_commit().dispatch()
    assert await handle.status() is TaskStatus.UNCOMMITTED
    toy.commit()
    assert await handle.status() is TaskStatus.WAITING


async def test_on_commit_of_a_given_transaction_waits_for_that_one(toy: Toy) -> None:
    handle = await note(1).on_commit("toy").dispatch()
    assert await handle.status() is TaskStatus.UNCOMMITTED
    toy.commit()
    assert await handle.status() is TaskStatus.WAITING
    with pytest.raises(ConfigurationError, match=r"on_commit\(object\): no installed adapter"):
        await note(1).on_commit(object()).dispatch()


async def test_what_waits_for_a_commit_can_be_cancelled(toy: Toy, ann: User, work: Work) -> None:
    @task(result_ttl=60)
    async def keep(user: User) -> None:
        ran.append(user)

    handle = await keep(ann).dispatch()
    assert await handle.cancel()
    assert await handle.status() is TaskStatus.CANCELLED
    with pytest.raises(TaskCancelled):
        await handle.result(1)
    toy.save(ann)
    toy.commit()
    await work()
    assert ran == []
    assert not await handle.cancel()


async def test_an_unsaved_instance_is_refused_by_the_name_of_its_argument(toy: Toy) -> None:
    with pytest.raises(UnsavedModelError, match=r"^user: this User has no row yet") as caught:
        await greet(User(None)).dispatch()
    assert caught.value.path == "user"
    with pytest.raises(UnsavedModelError) as caught:
        await note({"users": [User(1), (User(None),)]}).dispatch()
    assert caught.value.path == "value['users'][1][0]"


async def test_configuring_anew_leaves_no_connection_of_synchronous_dispatches_open(
    configure: Callable[..., App],
) -> None:
    name = f"asynctasq-{uuid4().hex}"
    url = redis_url()
    named = {"url": f"{url}?client_name={name}", "key_prefix": name}
    configure(driver="redis", redis=named)
    await asyncio.to_thread(note(1).dispatch_sync)
    async with redis.asyncio.Redis.from_url(url) as client:

        async def connections() -> int:
            return sum(c["name"] == name for c in await client.client_list())

        async with asyncio.timeout(10):
            assert await connections() == 1
            configure()
            while await connections():
                await asyncio.sleep(0.01)
            async for key in client.scan_iter(f"{name}:*"):
                await client.delete(key)
