"""References: one query for many, one instance in a task, gone apart from unavailable."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import asynctasq.app
import asynctasq.wire.class_paths
import msgpack
import pytest
from asynctasq import (
    AsyncTask,
    InvalidReference,
    OnMissing,
    ReferenceGone,
    ReferenceUnavailable,
    Retry,
    TaskConfig,
    TaskStatus,
    UnsavedModelError,
    alias_model,
    current_message,
    deadletters,
    dispatch_many,
    task,
)
from asynctasq.brokers import ConsumerOptions, WorkerInfo
from asynctasq.tasks.annotations import Missing
from asynctasq.tasks.call import Call
from asynctasq.wire.class_paths import allow_packages
from asynctasq.wire.encoding import no_plain_form
from asynctasq.wire.message import Message
from asynctasq.wire.results import encode_error
from toy_orm import Load, Order, Row, Toy, User
from wrapt import LazyObjectProxy

Work = Callable[..., Awaitable[None]]

got: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_came() -> None:
    got.clear()


@pytest.fixture
def ann(toy: Toy) -> User:
    user = User(1, "Ann")
    toy.save(user)
    return user


@task
async def take(*values: Any) -> None:
    got.append(values)


@task
async def take_user(user: User) -> None:
    got.append(user)


async def payload(toy: Toy, call: Call[Any]) -> Any:
    """The arguments of the call as they stand on the queue."""
    await call.on_queue("looked-at").dispatch()
    broker = asynctasq.app.current().open_broker()
    info = WorkerInfo("w", "h", 1, ("looked-at",), 1, 0.0)
    consumer = broker.consumer(ConsumerOptions(info, ("looked-at",)))
    await consumer.start()
    [delivery] = await consumer.take(1, 5)
    return msgpack.unpackb(Message.decode(delivery.body).payload, strict_map_key=False)


async def test_a_reference_holds_label_key_and_class_and_nothing_else(toy: Toy, ann: User) -> None:
    [[reference], _] = await payload(toy, take_user(ann))
    assert reference.code == 1
    assert msgpack.unpackb(reference.data) == {
        "__orm:toy__": 1,
        "__orm_class__": "toy_orm.User",
    }
    [[reference], _] = await payload(toy, take_user(User((1, "a"), "Ann", db="other")))
    assert msgpack.unpackb(reference.data) == {
        "__orm:toy__": [1, "a"],
        "__orm_class__": "toy_orm.User",
        "__orm_db__": "other",
    }


async def test_rows_are_fetched_anew_wherever_they_stand(toy: Toy, ann: User, work: Work) -> None:
    toy.save(User((1, "x"), "Bob", db="other"))
    await take(ann, [ann], {"k": (ann, {"n": [ann]})}, User((1, "x"), "old", db="other")).dispatch()
    toy.save(User(1, "Anna"))
    await work()
    [(first, [second], nested, bob)] = got
    assert first.name == "Anna"
    assert first is not ann
    assert nested["k"][0] is nested["k"][1]["n"][0] is second is first
    assert (bob.name, bob.pk, bob.db) == ("Bob", (1, "x"), "other")


async def test_rows_inside_sets_and_dataclasses_arrive(toy: Toy, ann: User, work: Work) -> None:
    @dataclass
    class Invoice:
        user: User
        orders: list[Order]

    toy.save(Order(1, "shoes"))

    @task
    async def bill(invoice: Invoice, users: frozenset[User]) -> None:
        got.append((invoice, users))

    await bill(Invoice(ann, [Order(1)]), frozenset([ann])).dispatch()
    await work()
    [(invoice, users)] = got
    assert invoice.user.name == "Ann"
    assert invoice.orders[0].name == "shoes"
    assert users == {invoice.user}


async def test_one_query_per_model_and_database_serves_all_messages_taken_together(
    toy: Toy, work: Work
) -> None:
    for i in range(20):
        toy.save(User(i, f"u{i}"))
        toy.save(Order(i, f"o{i}"))
        toy.save(User(i, f"x{i}", db="x"))
    await dispatch_many(take(User(i), Order(i), User(i, db="x"), User(0)) for i in range(20))
    await work(concurrency=50)
    assert len(toy.asked) == 3
    names = sorted(tuple(v.name for v in values) for values in got)
    assert names == sorted((f"u{i}", f"o{i}", f"x{i}", "u0") for i in range(20))


async def test_models_are_fetched_at_the_same_time(toy: Toy, ann: User, work: Work) -> None:
    order = toy.save(Order(7, "tea"))
    toy.meeting = asyncio.Barrier(2)
    await take(ann, order).dispatch()
    await asyncio.wait_for(work(), 20)
    assert [type(value) for value in got[0]] == [User, Order]


async def test_two_tasks_never_share_an_instance(toy: Toy, ann: User, work: Work) -> None:
    await dispatch_many([take_user(ann), take_user(ann)])
    await work()
    assert len(toy.asked) == 1
    first, second = got
    assert first is not second
    assert first.name == second.name == "Ann"


async def test_keys_that_compare_equal_but_differ_in_type_are_two_rows(
    toy: Toy, work: Work
) -> None:
    toy.save(User(1, "int"))
    await take(User(1), User(True), User(1.0)).dispatch()
    await work()
    assert len(toy.asked[0]) == 3


async def test_a_task_without_models_asks_nobody(toy: Toy, work: Work) -> None:
    await take({"__orm:toy__": 1, "__orm_class__": "toy_orm.User"}, "__orm:").dispatch()
    await work()
    assert toy.asked == []
    assert got == [({"__orm:toy__": 1, "__orm_class__": "toy_orm.User"}, "__orm:")]


# --- gone -------------------------------------------------------------------------------


async def test_a_row_that_is_gone_is_a_dead_letter_at_once(toy: Toy, work: Work) -> None:
    handle = await take_user(User(404)).max_attempts(5).dispatch()
    await work()
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert (letter.reason, letter.attempts) == ("a row is gone", 1)
    assert "ReferenceGone" in letter.error
    assert "toy_orm.User 404 no longer exists" in letter.error
    assert got == []


async def test_a_task_may_be_skipped_when_a_row_is_gone(
    toy: Toy, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task(on_missing="skip", result_ttl=60)
    async def skipped(user: User) -> object:
        got.append(user)
        return user.name

    handle = await skipped(User(404)).dispatch()
    await work()
    assert got == []
    assert await handle.status() is TaskStatus.DONE
    assert await handle.result(1) is None
    assert [r.levelname for r in caplog.records if r.message == "task skipped"] == ["WARNING"]


async def test_a_task_may_get_none_for_a_row_that_is_gone(toy: Toy, ann: User, work: Work) -> None:
    @task(on_missing="none")
    async def maybe(users: list[User | None]) -> None:
        got.append(users)

    await maybe([User(404), ann]).dispatch()
    await work()
    [[none, user]] = got
    assert none is None
    assert user.name == "Ann"


@task(on_missing="fail")
async def by_parameter(
    user: Annotated[User | None, OnMissing("none")],
    order: Annotated[Order, OnMissing("skip")],
    *rest: Annotated[User | None, OnMissing("none")],
    last: User | None = None,
) -> None:
    got.append((user, order, rest, last))


async def test_a_parameter_may_have_a_rule_of_its_own(toy: Toy, ann: User, work: Work) -> None:
    toy.save(Order(1, "shoes"))
    fine = await by_parameter(User(404), Order(1), User(405), ann).dispatch()
    skipped = await by_parameter(ann, Order(404)).dispatch()
    dead = await by_parameter(ann, Order(1), last=User(404)).dispatch()
    first_fail = await by_parameter(ann, Order(404), last=User(404)).dispatch()
    await work()
    assert await fine.status() is TaskStatus.ENDED
    assert await skipped.status() is TaskStatus.ENDED
    assert await dead.status() is TaskStatus.DEAD
    assert await first_fail.status() is TaskStatus.DEAD
    [(user, order, rest, last)] = got
    assert (user, order.name, rest[0], rest[1].name, last) == (None, "shoes", None, "Ann", None)


@pytest.mark.parametrize(
    "error",
    [
        ReferenceGone("row"),
        ReferenceUnavailable("down"),
        InvalidReference("no"),
        Retry("x", delay=9),
    ],
    ids=repr,
)
async def test_an_error_from_another_tasks_result_is_an_error_like_any_other(
    toy: Toy, work: Work, error: Exception
) -> None:
    @task(result_ttl=60, max_attempts=1)
    async def inner() -> None:
        raise error

    @task(on_missing="skip", max_attempts=2, retry_delay=0)
    async def outer() -> None:
        got.append(current_message().attempt)
        await handle.result(0)

    broker = asynctasq.app.current().open_broker()
    handle = await inner().delay(3600).dispatch()
    stored = encode_error(error, "", no_plain_form, (), handle.id, 10_000)
    await broker.cancel(handle.queue, handle.id, stored, 60)
    dead = await outer().dispatch()
    await work()
    assert got == [1, 2]
    letter = await deadletters.show(dead.id)
    assert letter is not None
    assert letter.reason == "no attempt is left"


# --- unavailable ------------------------------------------------------------------------


async def test_a_database_that_is_down_is_waited_for_without_using_up_an_attempt(
    toy: Toy, ann: User, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task(max_attempts=1)
    async def once(user: User) -> None:
        got.append((user.name, current_message().attempt))

    toy.failing = 2
    await once(ann).dispatch()
    await work()
    assert got == [("Ann", 1)]
    assert [r.message for r in caplog.records] == ["task postponed"] * 2


async def test_one_bad_key_fails_its_own_message_alone(toy: Toy, ann: User, work: Work) -> None:
    good, bad = await dispatch_many([take_user(ann), take_user(User("impossible"))])
    await work()
    assert [user.name for user in got] == ["Ann"]
    assert await good.status() is TaskStatus.ENDED
    letter = await deadletters.show(bad.id)
    assert letter is not None
    assert letter.reason == "the message cannot be run"
    assert "no such key" in letter.error


async def test_an_adapters_error_is_retried_like_the_tasks_own(
    toy: Toy, ann: User, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    instance = Toy._instance

    def broken(self: Toy, model: type[Any], ref: Any) -> object | None:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("driver bug")
        return instance(self, model, ref)

    monkeypatch.setattr(Toy, "_instance", broken)
    await take_user(ann).retry_after(0).dispatch()
    await work()
    assert [user.name for user in got] == ["Ann"]


# --- scopes, options and lazy instances -------------------------------------------------

orders, lines, lock = Load("orders"), Load("lines"), Load("lock", in_task_scope=True)
unhashable = ["unhashable"]


async def test_options_of_the_annotation_go_to_the_adapter(toy: Toy, ann: User, work: Work) -> None:
    toy.save(bob := User(2, "Bob"))

    @task
    async def loaded(user: Annotated[User, Load("orders")], other: User) -> None:
        got.append((user, other))

    await dispatch_many([loaded(ann, bob), loaded(ann, bob)])
    await work()
    assert sorted(refs[0].options for refs in toy.asked) == [(), (Load("orders"),)]
    assert [(user.name, other.name) for user, other in got] == [("Ann", "Bob")] * 2


async def test_a_row_is_one_instance_loaded_with_all_that_its_places_ask_for(
    toy: Toy, ann: User, work: Work
) -> None:
    @task
    async def several(
        plain: User,
        one: Annotated[User, orders, unhashable],
        *more: Annotated[User, lines, Load("orders"), unhashable],
        last: Annotated[User, orders],
    ) -> None:
        got.append((plain, one, *more, last))

    await several(ann, ann, ann, last=ann).dispatch()
    await work()
    assert [[r.options for r in refs] for refs in toy.asked] == [[(orders, unhashable, lines)]]
    assert len({id(user) for user in got[0]}) == 1


async def test_equal_options_share_a_query_also_across_tasks(
    toy: Toy, ann: User, work: Work
) -> None:
    toy.save(bob := User(2, "Bob"))

    @task
    async def first(user: Annotated[User, Load("x")], other: Annotated[User, Load("x")]) -> None:
        got.append((user.name, other.name))

    @task
    async def second(user: Annotated[User, Load("x")]) -> None:
        got.append((user.name,))

    @task
    async def third(user: Annotated[User, unhashable], other: Annotated[User, unhashable]) -> None:
        got.append((user.name, other.name))

    await dispatch_many([first(ann, bob), second(bob), third(ann, bob)])
    await work()
    assert [[ref.pk for ref in refs] for refs in toy.asked] == [[1, 2, 2], [1, 2]]
    assert sorted(got) == [("Ann", "Bob"), ("Ann", "Bob"), ("Bob",)]


async def test_options_of_named_and_of_superfluous_arguments_are_found(
    toy: Toy, ann: User, work: Work
) -> None:
    @task
    async def named(
        first: User, /, *, user: Annotated[User, Load("named")], **rest: Annotated[User, Load("**")]
    ) -> None:
        got.append((first, user, rest))

    for i in (2, 3, 4):
        toy.save(User(i, "x"))
    await named(ann, user=User(2), first=User(3), other=User(4)).dispatch()
    await work()
    options = {ref.pk: ref.options for refs in toy.asked for ref in refs}
    assert options == {1: (), 2: (Load("named"),), 3: (Load("**"),), 4: (Load("**"),)}


async def test_an_annotation_inside_another_is_about_rows_of_its_class(
    toy: Toy, work: Work
) -> None:
    class Special(User):
        """A model that is a kind of another."""

    toy.save(Order(1, "shoes"))
    toy.save(User(1, "Ann"))
    toy.save(Special(1, "Eve"))

    @task
    async def nested(
        pair: tuple[Annotated[User | None, Load("user"), OnMissing("none")], Order],
        special: list[Annotated[Special, Load("special")] | User],
        rest: Annotated[list[Annotated[dict[str, Any], Load("inner")]], Load("all")],
    ) -> None:
        got.append((pair, special, rest))

    alias_model("toy_orm.Special", Special)
    await nested((User(404), Order(1)), [User(1), Special(1)], [{"x": User(1)}]).dispatch()
    await nested((User(1), Order(404)), [], []).dispatch()
    await work()
    asked = {(r.model.rpartition(".")[2], r.pk): r.options for refs in toy.asked for r in refs}
    assert asked == {
        ("User", 404): (Load("user"),),
        ("Order", 1): (),
        ("Order", 404): (),
        ("User", 1): (Load("all"), Load("inner")),
        ("Special", 1): (Load("special"),),
    }
    [((missing, order), *_)] = got
    assert (missing, order.name) == (None, "shoes")


async def test_a_lock_is_taken_inside_the_tasks_scope(toy: Toy, ann: User, work: Work) -> None:
    toy.save(bob := User(2, "Bob"))
    scopes: list[list[str]] = []

    @task
    async def locked(user: Annotated[User, Load("lock", in_task_scope=True)], other: User) -> None:
        scopes.append(list(toy.scopes))
        got.append((user.name, other.name, current_message().id))

    handles = await dispatch_many([locked(ann, bob), locked(ann, bob)])
    await work()
    assert len(toy.asked) == 3
    assert sorted(name for *_, name in got) == sorted(h.id for h in handles)
    assert toy.scopes == []
    assert all(got[i][2] in scopes[i] for i in range(2))


async def test_a_row_that_one_place_locks_is_fetched_once_inside_the_scope(
    toy: Toy, ann: User, work: Work
) -> None:
    @task
    async def locked(plain: Annotated[User, Load("x")], user: Annotated[User, lock]) -> None:
        got.append(plain is user)

    await locked(ann, ann).dispatch()
    await work()
    assert [[ref.options for ref in refs] for refs in toy.asked] == [[(Load("x"), lock)]]
    assert got == [True]


async def test_scopes_are_left_after_failures_too(toy: Toy, ann: User, work: Work) -> None:
    @task(max_attempts=1)
    async def fails(user: User) -> None:
        assert current_message().id in toy.scopes
        raise ValueError

    @task(max_attempts=1, timeout=0.05)
    async def slow(user: User) -> None:
        await asyncio.sleep(60)

    await fails(ann).dispatch()
    await slow(ann).dispatch()
    await work()
    assert toy.scopes == []


async def test_a_thread_has_a_scope_inside_that_of_its_task(
    toy: Toy, ann: User, work: Work
) -> None:
    @task(max_attempts=1)
    def in_thread(user: User, fails: bool) -> None:
        got.append((threading.current_thread().name, dict(toy.threads), current_message().id))
        if fails:
            raise ValueError

    await dispatch_many([in_thread(ann, False), in_thread(ann, True)])
    await work()
    assert len(got) == 2
    for thread, threads, message_id in got:
        assert message_id in threads[thread]
    assert toy.threads == {}


async def test_the_owner_of_a_type_is_asked_for_once(toy: Toy, ann: User, work: Work) -> None:
    for _ in range(3):
        await take(ann, [ann, Order(404)]).dispatch()
    await work()
    assert toy.types_asked.count(User) == 1
    assert toy.types_asked.count(Order) == 1


async def test_an_orm_that_is_not_ready_gives_instances_that_fetch_themselves(
    toy: Toy, ann: User, work: Work
) -> None:
    @task
    async def initialises(user: User) -> None:
        assert isinstance(user, User)
        await asyncio.sleep(0)
        toy.is_ready = True
        got.append((user.name, user.pk))

    toy.is_ready = False
    await initialises(ann).dispatch()
    await work()
    assert got == [("Ann", 1)]


async def test_a_lazy_row_that_is_gone_says_so_at_its_first_use(toy: Toy, work: Work) -> None:
    @task(result_ttl=60)
    async def initialises(user: User) -> str:
        toy.is_ready = True
        return user.name

    toy.is_ready = False
    handle = await initialises(User(404)).dispatch()
    await work()
    with pytest.raises(ReferenceGone, match="404 no longer exists"):
        await handle.result(1)


@pytest.mark.parametrize("task_rule", ["fail", "none"])
async def test_a_lazy_row_that_is_gone_follows_its_parameters_rule(
    toy: Toy, work: Work, task_rule: Missing
) -> None:
    @task(on_missing=task_rule)
    async def skipping(user: Annotated[User, OnMissing("skip")]) -> None:
        toy.is_ready = True
        got.append(user.name)

    @task(on_missing="skip")
    async def failing(
        user: Annotated[User, OnMissing("skip")], same: Annotated[User, OnMissing("fail")]
    ) -> None:
        toy.is_ready = True
        got.append(user.name)

    toy.is_ready = False
    skipped = await skipping(User(404)).dispatch()
    await work()
    toy.is_ready = False
    dead = await failing(User(404), User(404)).dispatch()
    await work()
    assert await skipped.status() is TaskStatus.ENDED
    assert await dead.status() is TaskStatus.DEAD
    assert got == []


async def test_what_a_lazy_row_raises_while_a_set_is_made_is_no_damaged_message(
    toy: Toy, ann: User, work: Work
) -> None:
    @task(max_attempts=1)
    async def initialises(users: set[User]) -> None: ...

    toy.is_ready = False
    handle = await initialises({ann}).dispatch()
    await work()
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "no attempt is left"
    assert letter.error == "asynctasq.errors.ConfigurationError: not initialised"


async def test_class_based_tasks_and_threads_receive_instances(
    toy: Toy, ann: User, work: Work
) -> None:
    class Greet(AsyncTask[None]):
        config: TaskConfig = {}

        def __init__(self, user: User, *, again: User) -> None:
            self.user, self.again = user, again

        async def execute(self) -> None:
            got.append((self.user.name, self.user is self.again))

    @task
    def in_thread(user: User) -> None:
        got.append((user.name, True))

    await Greet(ann, again=ann).dispatch()
    await in_thread(ann).dispatch()
    await work()
    assert got == [("Ann", True)] * 2


class Guest(User):
    """A model that is a kind of another."""


@dataclass
class Visit:
    user: User


@task
async def take_named(
    user: User | None,
    *others: list[User] | dict[str, tuple[Order, ...]],
    order: Annotated[Order, Load("x")] | None = None,
    **more: Order,
) -> None: ...


def wrong(model: type[Row]) -> Any:
    """An instance that type checkers let pass."""
    return model(1)


@task
async def take_open(
    anything: Any, listed: list[Any], either: User | str, visit: Visit, rows: list[object]
) -> None: ...


@pytest.mark.parametrize(
    ("call", "parameter", "wanted", "given"),
    [
        (lambda: take_user(wrong(Order)), "user", "User", "Order"),
        (lambda: take_user(user=wrong(Order)), "user", "User", "Order"),
        (lambda: take_named(wrong(Order)), "user", "User", "Order"),
        (
            lambda: take_named(None, [User(1), Guest(1), wrong(Row)]),
            "others",
            "User or Order",
            "Row",
        ),
        (lambda: take_named(None, {"a": (wrong(Row),)}), "others", "User or Order or str", "Row"),
        (lambda: take_named(None, order=wrong(User)), "order", "Order", "User"),
        (lambda: take_named(None, more=wrong(User)), "more", "Order", "User"),
        (lambda: Welcome(wrong(Order)), "user", "User", "Order"),
        (
            lambda: take_open(1, [], wrong(Order), Visit(User(1)), []),
            "either",
            "User or str",
            "Order",
        ),
    ],
)
def test_an_instance_of_another_model_is_a_type_error_at_the_call(
    toy: Toy, call: Callable[[], object], parameter: str, wanted: str, given: str
) -> None:
    message = rf"'{parameter}' takes .*, not an instance of {given}$"
    with pytest.raises(TypeError, match=message) as caught:
        call()
    assert set(wanted.split(" or ")) <= set(re.findall(r"\w+", str(caught.value)))


class Welcome(AsyncTask[None]):
    def __init__(self, user: User) -> None: ...

    async def execute(self) -> None: ...


def test_what_may_stand_for_a_model_is_accepted(toy: Toy) -> None:
    lazy = LazyObjectProxy(lambda: pytest.fail("woken"), interface=User)
    for value in (User(1), Guest(1), None, 5, "a", object(), lazy):
        take_user(value)  # type: ignore[arg-type]
    take_named(None, [User(1)], {"a": (Order(1), Order(2))}, order=None, more=Order(1))
    take_open(Order(1), [Order(1)], "a", Visit(Order(1)), [Order(1)])  # type: ignore[arg-type]


async def test_a_message_with_another_model_is_a_dead_letter_at_once(
    toy: Toy, ann: User, work: Work
) -> None:
    """As one that was sent before the annotation was changed."""
    handle = await Call(take_user, (toy.save(Order(1)),), {}).dispatch()
    await work()
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.attempts == 1
    assert "'user' takes User, not an instance of Order" in letter.error


async def test_a_result_holds_instances_as_they_are_when_it_is_asked_for(
    toy: Toy, ann: User, work: Work
) -> None:
    @task(result_ttl=60)
    async def gives(user: User) -> dict[str, list[Annotated[User, Load("orders")] | Order]]:
        user.name = "changed"
        return {"rows": [user, Order(2), user]}

    handle = await gives(ann).dispatch()
    await work()
    toy.save(User(1, "Anna"))
    toy.save(Order(2, "tea"))
    toy.asked.clear()
    [first, order, second] = (await handle.result(5))["rows"]
    assert (first.name, order.name) == ("Anna", "tea")
    assert first is second is not ann
    asked = {(ref.model, ref.options) for refs in toy.asked for ref in refs}
    assert asked == {("toy_orm.User", (Load("orders"),)), ("toy_orm.Order", ())}


async def test_a_row_of_a_result_may_be_gone(toy: Toy, ann: User, work: Work) -> None:
    @task(result_ttl=60)
    async def gives(user: User) -> list[User]:
        return [user]

    @task(result_ttl=60)
    async def may_give(user: User) -> Annotated[User | None, OnMissing("none")]:
        return user

    handles: list[Any] = [await gives(ann).dispatch(), await may_give(ann).dispatch()]
    await work()
    toy.rows.clear()
    with pytest.raises(ReferenceGone, match="1 no longer exists"):
        await handles[0].result(5)
    assert await handles[1].result(5) is None


async def test_a_database_that_is_down_is_told_to_whoever_asks_for_the_result(
    toy: Toy, ann: User, work: Work
) -> None:
    @task(result_ttl=60)
    async def gives(user: User) -> User:
        return user

    handle = await gives(ann).dispatch()
    await work()
    toy.failing = 1
    with pytest.raises(ReferenceUnavailable):
        await handle.result(5)
    assert (await handle.result(5)).name == "Ann"


async def test_a_result_with_an_unsaved_instance_cannot_be_kept(
    toy: Toy, ann: User, work: Work
) -> None:
    @task(result_ttl=60)
    async def gives() -> list[User]:
        return [User(None)]

    handle = await gives().dispatch()
    await work()
    with pytest.raises(UnsavedModelError, match=r"result\[0\]: this User has no row yet"):
        await handle.result(1)
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "the result cannot be kept"


async def test_execute_hands_over_the_very_instances(toy: Toy, ann: User) -> None:
    await take_user(ann).execute()
    assert got == [ann]


async def test_a_class_that_cannot_be_found_is_looked_for_once_for_a_message(
    toy: Toy, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"failing_{uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(
        f"with open({str(tmp_path / 'imports')!r}, 'a') as file: file.write('.')\n1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    allow_packages([module])

    @task(max_attempts=1)
    async def greet(users: list[Annotated[User, Load("orders")]]) -> None:
        got.append(users)

    elsewhere = type("Elsewhere", (User,), {"__module__": module})
    handle = await greet([elsewhere(n) for n in range(50)]).dispatch()
    monkeypatch.delitem(
        asynctasq.wire.class_paths._found, f"{module}.Elsewhere"
    )  # as in another process
    await work()
    assert await handle.status() is TaskStatus.DEAD
    assert got == []
    assert (tmp_path / "imports").read_text() == "."
