"""Policies as users declare them: unique calls, limits, rates, priorities, keyed by arguments."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from asynctasq import (
    AsyncTask,
    ConfigurationError,
    DuplicateCall,
    Limit,
    Rate,
    SerializationError,
    TaskConfig,
    TaskHandle,
    TaskStatus,
    Unique,
    dispatch_many,
    dispatch_many_sync,
    task,
)
from asynctasq.app import App
from asynctasq.brokers import Policing
from asynctasq.policies.keys import KeyArguments
from toy_orm import Order, Toy, User

Work = Callable[..., Awaitable[None]]
ran: list[Any] = []
running: Counter[Any] = Counter()
most: Counter[Any] = Counter()


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    for seen in (ran, running, most):
        seen.clear()


@pytest.fixture(params=["memory", "sqlite"])
def policing(request: pytest.FixtureRequest, configure: Callable[..., App], tmp_path: Any) -> App:
    """An application on each broker that knows policies."""
    if request.param == "memory":
        return configure()
    return configure(driver="sqlite", sqlite=tmp_path / "queue.db")


async def run_for_a_moment(key: Any, name: Any) -> None:
    running[key] += 1
    most[key] = max(most[key], running[key])
    ran.append(name)
    await asyncio.sleep(0.01)
    running[key] -= 1


@task(unique=True)
async def once(value: object, flag: bool = False) -> None:
    ran.append(value)


@task(unique=Unique(by="value", on_conflict="raise"))
async def strict(value: object, note: str = "") -> None:
    ran.append(value)


@task(unique=Unique(by="document", on_conflict="replace"))
async def save(document: int, text: str) -> None:
    ran.append((document, text))


@task(unique=Unique(by="value", until=timedelta(seconds=60)))
async def throttled(value: int) -> None:
    ran.append(value)


@task(limit=Limit(1, by="account"))
async def serial(account: int, number: int) -> None:
    await run_for_a_moment(account, (account, number))


@task(limit=Limit(2, name="mail-server"))
async def mail(number: int) -> None:
    await run_for_a_moment("mail", number)


@task(limit=Limit(2, name="mail-server"))
async def newsletter(number: int) -> None:
    await run_for_a_moment("mail", -number)


@task(rate=Rate(10, seconds=1, by="account", burst=2))
async def metered(account: int) -> None:
    ran.append((account, time.monotonic()))


@task(priority=-5)
async def low(name: str) -> None:
    ran.append(name)


@task(unique=Unique(by="order"))
async def ship(order: Order) -> None:
    ran.append(order.pk)


# --- unique -------------------------------------------------------------------------------


async def test_the_second_of_two_equal_calls_gets_the_handle_of_the_first(
    policing: App, work: Work
) -> None:
    first = await once(1).dispatch()
    second = await once(value=1, flag=False).dispatch()
    other = await once("1").dispatch()
    assert (second.id, second.is_existing, first.is_existing) == (first.id, True, False)
    assert not other.is_existing
    assert await second.status() is TaskStatus.WAITING
    await work()
    assert ran == [1, "1"]
    assert not (await once(1).dispatch()).is_existing


async def test_synchronous_code_learns_of_the_existing_call_too(policing: App) -> None:
    def dispatch() -> list[TaskHandle[None]]:
        return [once(1).dispatch_sync(), *dispatch_many_sync([once(1), once(2), once(2)])]

    one, same, two, same_two = await asyncio.to_thread(dispatch)
    assert (same.id, same_two.id) == (one.id, two.id)
    assert [h.is_existing for h in (one, same, two, same_two)] == [False, True, False, True]


async def test_many_equal_calls_dispatched_at_once_are_one(policing: App, work: Work) -> None:
    singly = await asyncio.gather(*(once(1).dispatch() for _ in range(200)))
    together = await dispatch_many(once(1) for _ in range(200))
    handles = [*singly, *together]
    assert len({handle.id for handle in handles}) == 1
    assert [handle.is_existing for handle in handles].count(False) == 1
    await work()
    assert ran == [1]


async def test_a_duplicate_that_is_to_be_an_error_names_the_call_there_is(policing: App) -> None:
    first = await strict(1, note="a").dispatch()
    with pytest.raises(DuplicateCall, match=first.id) as caught:
        await strict(1, note="b").dispatch()
    assert caught.value.existing_id == first.id
    with pytest.raises(DuplicateCall):
        await dispatch_many([strict(2), strict(1), strict(3)])
    assert await first.status() is TaskStatus.WAITING
    with pytest.raises(DuplicateCall):  # what stood beside it was sent
        await strict(3).dispatch()


async def test_a_waiting_call_is_replaced_by_the_latest(policing: App, work: Work) -> None:
    first = await save(1, "a").delay(3600).dispatch()
    second = await save(1, "ab").delay(3600).dispatch()
    third = await save(1, "abc").dispatch()
    assert second.id == third.id == first.id
    assert third.is_existing
    await work()
    assert ran == [(1, "abc")]


async def test_what_comes_while_a_call_runs_is_a_call_of_its_own(policing: App, work: Work) -> None:
    inside = asyncio.Event()
    go_on = asyncio.Event()

    async def body(document: int, text: str) -> None:
        ran.append(text)
        if text == "first":
            inside.set()
            await go_on.wait()

    declared = task(
        name="replaced-while-running", unique=Unique(by="document", on_conflict="replace")
    )
    edit = declared(body)
    first = await edit(1, "first").dispatch()
    working = asyncio.ensure_future(work(concurrency=2))
    await inside.wait()
    second = await edit(1, "second").dispatch()
    assert second.id != first.id
    assert not second.is_existing
    go_on.set()
    await working
    assert sorted(ran) == ["first", "second"]


async def test_a_signed_call_that_is_replaced_is_signed_anew(
    configure: Callable[..., App], work: Work
) -> None:
    configure(signing_key="secret" * 6)
    await save(1, "a").dispatch()
    await save(1, "ab").dispatch()
    await work()
    assert ran == [(1, "ab")]


async def test_a_key_that_lasts_is_taken_after_its_call_is_done(policing: App, work: Work) -> None:
    first = await throttled(1).dispatch()
    await work()
    second = await throttled(1).dispatch()
    assert (second.id, second.is_existing) == (first.id, True)
    await work()
    assert ran == [1]


async def test_a_call_can_be_unique_and_not_be_so(policing: App) -> None:
    plain = await once(1).unique(False).dispatch()
    another = await once(1).unique(False).dispatch()
    assert plain.id != another.id
    first = await low("a").unique(Unique(by=())).dispatch()
    assert (await low("b").unique(Unique(by=())).dispatch()).id == first.id


async def test_a_row_is_the_same_row_whatever_instance_stands_for_it(toy: Toy, work: Work) -> None:
    toy.rows[Order, None, 5] = "five"
    first = await ship(Order(5)).dispatch()
    assert (await ship(Order(5, "loaded elsewhere")).dispatch()).id == first.id
    assert (await ship(Order(6)).dispatch()).id != first.id


async def test_after_a_commit_the_handle_learns_of_the_existing_call(toy: Toy, work: Work) -> None:
    first = await ship(Order(5)).dispatch()
    written = Order(5)
    toy.pending.append(written)
    second = await ship(written).dispatch()
    assert (second.is_existing, await second.status()) == (False, TaskStatus.UNCOMMITTED)
    toy.pending.clear()
    for send in toy.waiting:
        await send.send_async()
    assert (second.id, second.is_existing) == (first.id, True)
    assert await second.status() is TaskStatus.WAITING


async def test_a_rolled_back_call_takes_no_key(toy: Toy) -> None:
    written = Order(5)
    toy.pending.append(written)
    await ship(written).dispatch()
    toy.pending.clear()
    for send in toy.waiting:
        send.drop()
    assert not (await ship(Order(5)).dispatch()).is_existing


# --- limits, rates, priorities ------------------------------------------------------------


async def test_calls_of_one_key_run_one_by_one_in_order(policing: App, work: Work) -> None:
    await dispatch_many(serial(account, n) for n in range(8) for account in (1, 2, 3))
    await work(concurrency=10)
    assert dict(most) == {1: 1, 2: 1, 3: 1}
    for account in (1, 2, 3):
        assert [n for a, n in ran if a == account] == list(range(8))


async def test_tasks_share_a_named_limit(policing: App, work: Work) -> None:
    await dispatch_many([*(mail(n) for n in range(10)), *(newsletter(n) for n in range(10))])
    await work(concurrency=10)
    assert most["mail"] == 2
    assert len(ran) == 20


async def test_a_rate_spreads_the_starts_of_each_key(policing: App, work: Work) -> None:
    await dispatch_many(metered(account) for _ in range(5) for account in (1, 2))
    started = time.monotonic()
    await work(concurrency=10)
    for account in (1, 2):
        times = [at - started for a, at in ran if a == account]
        assert [at >= max(0, i - 1) * 0.1 - 0.01 for i, at in enumerate(times)] == [True] * 5


async def test_a_call_of_a_higher_priority_runs_first(policing: App, work: Work) -> None:
    await low("by its task").dispatch()
    await low("plain").priority(0).dispatch()
    await low("high").priority(7).dispatch()
    await work(concurrency=1)
    assert ran == ["high", "plain", "by its task"]


async def test_a_class_based_task_has_policies(policing: App, work: Work) -> None:
    @dataclass
    class Charge(AsyncTask[None]):
        config = TaskConfig(name="policed-charge", limit=Limit(1, by="account"), unique=True)
        account: int
        cents: int

        async def execute(self) -> None:
            await run_for_a_moment(self.account, self.cents)

    first = await Charge(1, 100).dispatch()
    assert (await Charge(1, 100).dispatch()).id == first.id
    await Charge(1, 200).dispatch()
    await work(concurrency=5)
    assert (ran, most[1]) == ([100, 200], 1)


# --- keys ---------------------------------------------------------------------------------


def keys_of(app: App, *values: object) -> list[str]:
    return [
        KeyArguments(once(value), app.adapters).key("scope", Unique(by="value")) for value in values
    ]


def test_keys_differ_where_values_do(toy: Toy) -> None:
    import asynctasq.app

    values = [1, "1", 1.0, True, None, b"1", (1,), [1], {1}, {1: 2}, {"1": 2}, User(1), Order(1)]
    keys = keys_of(asynctasq.app.current(), *values, User(1, db="replica"), [[1], []], [[], [1]])
    assert len(set(keys)) == len(keys)


def test_keys_do_not_depend_on_the_order_of_sets_and_dicts(app: App) -> None:
    words = [f"word-{i}" for i in range(50)]
    one = {"b": {*words}, "a": ({3, 1, 2}, frozenset(words))}
    two = {"a": ({1, 2, 3}, frozenset(reversed(words))), "b": {*reversed(words)}}
    first, second = keys_of(app, one, two)
    assert first == second


def test_a_key_shows_what_it_stands_for_and_stays_short(toy: Toy) -> None:
    import asynctasq.app

    app = asynctasq.app.current()
    [row] = keys_of(app, Order(5))
    assert row.startswith("scope value=Order#5 ")
    [long] = keys_of(app, "x\n" * 100_000)
    assert len(long) < 100
    assert "\n" not in long


def test_a_function_of_the_arguments_may_give_the_key(app: App) -> None:
    def city(value: object, flag: bool = False) -> object:
        return (str(value).lower(), flag)

    policy = Unique(by=city)
    keys = [
        KeyArguments(once(value), app.adapters).key("s", policy) for value in ("Rome", "rome", "x")
    ]
    assert keys[0] == keys[1] != keys[2]


async def test_a_value_that_cannot_travel_makes_no_key(app: App) -> None:
    declared = task(name="unkeyable", limit=Limit(1, by=lambda value: object()))

    @declared
    async def unkeyable(value: int) -> None: ...

    with pytest.raises(SerializationError, match=r"by: builtins\.object"):
        await unkeyable(1).dispatch()


# --- misuse -------------------------------------------------------------------------------


async def coroutine_key(value: int) -> int:
    return value


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Limit(0), "most must be"),
        (lambda: Limit(True), "most must be"),
        (lambda: Limit(1, name=""), "name must be"),
        (lambda: Limit(1, name="mail\0server"), "printable"),
        (lambda: Limit(1, by=5), "by must be"),  # type: ignore[arg-type]
        (lambda: Rate(0, seconds=1), "count must be"),
        (lambda: Rate(1, seconds=0), "seconds must be"),
        (lambda: Rate(1, seconds=1, burst=0), "burst must be"),
        (lambda: Unique(until="forever"), "until must be"),  # type: ignore[arg-type]
        (lambda: Unique(until=timedelta(0)), "until must be"),
        (lambda: Unique(on_conflict="ignore"), "on_conflict must be"),  # type: ignore[arg-type]
        (lambda: task(limit=5)(coroutine_key), "limit must be a Limit"),  # type: ignore[call-overload]
        (lambda: task(priority=101)(coroutine_key), "priority must be"),
        (lambda: task(unique="yes")(coroutine_key), "unique must be"),  # type: ignore[call-overload]
        (lambda: task(limit=Limit(1, by="order"))(coroutine_key), "no parameter 'order'"),
        (lambda: task(unique=Unique(by=["value", "x"]))(coroutine_key), "no parameter 'x'"),
        (lambda: task(rate=Rate(1, 1, by=coroutine_key))(coroutine_key), "must be a `def`"),
        (lambda: task(limit=Limit(1, by=lambda: 1))(coroutine_key), "the arguments of the task"),
        (lambda: task(limit=Limit(3, name="mail-server"))(coroutine_key), "different numbers"),
        (
            lambda: task(limit=Limit(2, name="mail-server"), queue="other")(coroutine_key),
            "different queues",
        ),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_declared(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare()


def test_policies_are_no_default_of_all_tasks(configure: Callable[..., App]) -> None:
    with pytest.raises(ConfigurationError, match="each task for itself"):
        configure(task_defaults={"limit": Limit(1)})
    configure(task_defaults={"priority": 5})


def test_a_call_cannot_ask_for_what_its_task_cannot_give(app: App) -> None:
    with pytest.raises(ConfigurationError, match="no parameter 'x'"):
        once(1).unique(Unique(by="x"))
    with pytest.raises(ConfigurationError, match="priority must be"):
        once(1).priority(1000)


async def test_a_call_with_a_limit_goes_to_its_tasks_own_queue(app: App) -> None:
    with pytest.raises(ConfigurationError, match="inside a queue"):
        await serial(1, 1).on_queue("other").dispatch()
    await serial(1, 1).on_queue("default").dispatch()


async def test_a_broker_without_policies_is_refused_before_anything_is_sent(
    configure: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = configure()
    monkeypatch.setattr(app, "_polices", False)
    with pytest.raises(ConfigurationError, match="knows no limits"):
        await once(1).dispatch()
    with pytest.raises(ConfigurationError, match="knows no limits"):
        await low("a").dispatch()


async def test_the_keys_in_use_are_readable(toy: Toy) -> None:
    import asynctasq.app

    await ship(Order(5)).dispatch()
    broker = asynctasq.app.current().open_broker()
    assert isinstance(broker, Policing)
    [key] = await broker.keys_in_use("default")
    assert f"{ship.name} order=Order#5 " in key.key
