"""Tasks run by a worker: both ways to initialise Tortoise, declared loading, commits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from contextvars import Context
from typing import Annotated, Any

import psycopg
import pytest
import tortoise
from asynctasq import SyncTask, TaskConfig, Worker, dispatch_many, init, task
from asynctasq_tortoise import (
    lifecycle,
    only,
    prefetch_related,
    select_for_update,
    select_related,
    using,
)
from tortoise import Tortoise
from tortoise.transactions import in_transaction
from tortoise_shop.models import Order, User

from .. import servers
from .conftest import (
    MODULES,
    Initialise,
    Statements,
    forget_initialisation,
    with_scheme,
)

HAS_CONTEXTS = hasattr(Tortoise, "_get_context")
seen: list[Any] = []
settings: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()
    settings.clear()


async def work(concurrency: int = 20) -> None:
    """Run all that is queued, in a worker that shares no context variable with the test."""
    running = Worker(burst=True, concurrency=concurrency).run()
    await asyncio.create_task(running, context=Context())


def configured(url: str, **options: Any) -> dict[str, Any]:
    config = {"db_url": url, "modules": MODULES, **options}
    init({"driver": "memory"}, tortoise_config=config)
    return config


# --- option 1: tortoise_config ---------------------------------------------------------------


@task
async def note_user(user: User) -> None:
    seen.append((type(user), user.email, Tortoise._inited, await User.all().count()))


async def test_with_tortoise_config_rows_arrive_fresh_and_queries_work(
    url: str, initialise: Initialise
) -> None:
    configured(url)
    await initialise(db_url=url)
    user = await User.create(email="old@example.com")
    await note_user(user=user).dispatch()
    await User.filter(id=user.id).update(email="new@example.com")
    await forget_initialisation()
    await work()
    assert seen == [(User, "new@example.com", True, 1)]


async def test_a_worker_initialises_once_and_closes_at_its_end(
    sqlite_url: str, initialise: Initialise
) -> None:
    configured(sqlite_url)
    await initialise(db_url=sqlite_url)
    user = await User.create(email="ann@example.com")
    for _ in range(5):
        await note_context(user).dispatch()
    await forget_initialisation()
    await work(concurrency=1)
    assert len({id(client) for client in seen}) == 1
    assert seen[0]._connection is None


@task
async def note_context(user: User) -> None:
    seen.append(tortoise.connections.get("default"))


async def test_a_hundred_tasks_cost_one_query(
    sqlite: str, statements: Statements, initialise: Initialise
) -> None:
    configured(sqlite)
    users = [await User.create(email=f"{i}@example.com") for i in range(100)]
    for user in users:
        await note_email(user).dispatch()
    await forget_initialisation()
    statements.seen.clear()
    await work(concurrency=100)
    assert sorted(seen) == sorted(user.email for user in users)
    assert statements.selects() == 1


@task
async def note_email(user: User) -> None:
    seen.append(user.email)


async def test_two_models_lists_and_dicts_in_one_task(sqlite: str) -> None:
    configured(sqlite)
    user = await User.create(email="ann@example.com")
    order = await Order.create(user=user, total=5)
    await note_all(order, {"who": [user, user]}).dispatch()
    await work()
    assert seen == [(order, user, True)]


@task
async def note_all(order: Order, people: dict[str, list[User]]) -> None:
    first, second = people["who"]
    seen.append((order, first, first is second))


@task(max_attempts=1)
def note_in_thread(user: User) -> None:
    seen.append((user.email, user.pk))


class NoteInClass(SyncTask[None]):
    config: TaskConfig = {"queue": "default"}

    def __init__(self, user: User) -> None:
        self.user = user

    def execute(self) -> None:
        seen.append(self.user.email)


async def test_def_tasks_and_classes_get_instances_too(sqlite: str) -> None:
    configured(sqlite)
    user = await User.create(email="ann@example.com")
    await note_in_thread(user).dispatch()
    await NoteInClass(user).dispatch()
    await work(concurrency=1)
    assert seen == [("ann@example.com", user.pk), "ann@example.com"]


async def test_a_failing_initialisation_is_logged_and_tried_again(
    sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = await User.create(email="ann@example.com")
    config = {"db_url": sqlite, "modules": {"models": ["module_that_is_not_there_yet"]}}
    init({"driver": "memory"}, tortoise_config=config)
    await note_email(user).dispatch()
    await forget_initialisation()
    with caplog.at_level(logging.WARNING):
        worker = Worker(burst=True)
        running = asyncio.create_task(worker.run(), context=Context())
        async with asyncio.timeout(20):
            while not any("postponed" in r.getMessage() for r in caplog.records):
                await asyncio.sleep(0.01)
        assert any("not initialised" in r.getMessage() for r in caplog.records)
        lifecycle.configure({**config, "modules": MODULES})
        async with asyncio.timeout(40):
            await running
    assert seen == ["ann@example.com"]


async def test_connections_are_as_many_after_ten_thousand_tasks_as_before(
    postgres_url: str, initialise: Initialise
) -> None:
    configured(postgres_url, maxsize=3)
    await initialise(db_url=postgres_url)
    user = await User.create(email="ann@example.com")
    await dispatch_many([note_count(user) for _ in range(10_000)])
    await forget_initialisation()
    name = postgres_url.rpartition("/")[2]
    before = await connections_to(name)
    await work(concurrency=50)
    assert len(seen) == 10_000
    assert max(seen) <= 3
    assert await connections_to(name) == before == 0


@task
async def note_count(user: User) -> None:
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
    rows = await tortoise.connections.get("default").execute_query_dict(query)
    seen.append(rows[0]["n"])


async def connections_to(database: str) -> int:
    """How many connections the server has; those that are closing get a moment."""
    url = with_scheme(servers.postgres_url(), "postgresql", "postgres")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        count = 1
        for _ in range(100):
            rows = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [database]
            )
            row = await rows.fetchone()
            count = row[0] if row else 0
            if count == 0:
                break
            await asyncio.sleep(0.02)
        return count


# --- option 2: the task initialises ----------------------------------------------------------


@task(max_attempts=1)
async def initialise_and_use(user: User) -> None:
    if not Tortoise._inited:
        await Tortoise.init(  # type: ignore[call-arg]
            db_url=settings["url"],
            modules=MODULES,
            connection_config={"min_pool_size": 2, "max_pool_size": 7},
        )
        seen.append("initialised")
    seen.append(user.email)
    assert isinstance(user, User)
    user.name = "seen"
    await user.save()


async def test_a_task_may_initialise_tortoise_before_it_uses_its_argument(
    url: str, initialise: Initialise
) -> None:
    init({"driver": "memory"})
    settings["url"] = url
    await initialise(db_url=url)
    user = await User.create(email="ann@example.com")
    for _ in range(3):
        await initialise_and_use(user=user).dispatch()
    await forget_initialisation()
    await work(concurrency=1)
    assert seen == ["initialised"] + ["ann@example.com"] * 3
    await initialise(db_url=url, schemas=False)
    assert (await User.get(id=user.id)).name == "seen"


async def test_many_such_tasks_at_once_share_one_initialisation(
    postgres_url: str, initialise: Initialise
) -> None:
    init({"driver": "memory"})
    settings["url"] = postgres_url
    await initialise(db_url=postgres_url)
    user = await User.create(email="ann@example.com")
    for _ in range(30):
        await initialise_and_use(user=user).dispatch()
    await forget_initialisation()
    await work(concurrency=30)
    assert seen.count("initialised") == 1
    assert seen.count("ann@example.com") == 30
    assert await connections_to(postgres_url.rpartition("/")[2]) == 0


@task(max_attempts=1)
async def use_own_database(user: User, url: str) -> None:
    await Tortoise.init(db_url=url, modules=MODULES)
    seen.append(user.email)


@pytest.mark.skipif(not HAS_CONTEXTS, reason="0.x has one configuration for the whole process")
async def test_each_task_may_choose_its_own_database(tmp_path: Any, initialise: Initialise) -> None:
    init({"driver": "memory"})
    urls = [f"sqlite://{tmp_path}/{i}.db" for i in range(3)]
    for i, url in enumerate(urls):
        await initialise(db_url=url)
        user = await User.create(email=f"{i}@example.com")
        await use_own_database(user, url).dispatch()
    await forget_initialisation()
    await work(concurrency=1)
    assert seen == ["0@example.com", "1@example.com", "2@example.com"]


@task(max_attempts=1, on_missing="skip")
async def use_missing(user: User) -> None:
    if not Tortoise._inited:
        await Tortoise.init(db_url=settings["url"], modules=MODULES)
    seen.append(user.email)


async def test_a_row_that_is_gone_is_told_at_the_first_use(
    sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    init({"driver": "memory"})
    settings["url"] = sqlite
    user = await User.create(email="ann@example.com")
    await use_missing(user).dispatch()
    await user.delete()
    await forget_initialisation()
    with caplog.at_level(logging.INFO):
        await work()
    assert seen == []
    assert "no longer exists" in " ".join(str(vars(r)) for r in caplog.records)


async def test_a_task_that_does_not_initialise_is_told_so_and_uses_up_its_attempts(
    sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    init({"driver": "memory"})
    user = await User.create(email="ann@example.com")
    await note_in_thread(user).dispatch()
    await note_email(user).max_attempts(1).dispatch()
    await forget_initialisation()
    await work()
    assert seen == []
    dead = [str(vars(r)) for r in caplog.records if r.getMessage() == "task dead"]
    assert len(dead) == 2
    assert all("give asynctasq.init a tortoise_config" in text for text in dead)


@task(max_attempts=1)
async def pass_on(user: User) -> None:
    if not Tortoise._inited:
        await Tortoise.init(db_url=settings["url"], modules=MODULES)
    await note_email(user).dispatch()


async def test_an_argument_that_was_not_used_yet_can_be_passed_on(sqlite: str) -> None:
    init({"driver": "memory"})
    settings["url"] = sqlite
    user = await User.create(email="ann@example.com")
    await pass_on(user).dispatch()
    await forget_initialisation()
    await work()
    assert seen == ["ann@example.com"]


# --- declared loading ------------------------------------------------------------------------


@task(max_attempts=1)
async def with_orders(user: Annotated[User, prefetch_related("orders")]) -> None:
    seen.append([order.total for order in user.orders])


@task(max_attempts=1)
async def with_user(order: Annotated[Order, select_related("user")]) -> None:
    seen.append(order.user.email)


@task(max_attempts=1)
async def with_email_only(user: Annotated[User, only("email")]) -> None:
    seen.append((user.email, user.pk, hasattr(user, "name")))


def newest_first() -> Any:
    from tortoise.query_utils import Prefetch

    return Prefetch("orders", queryset=Order.all().order_by("-id"))


@task(max_attempts=1)
async def with_sorted_orders(user: Annotated[User, prefetch_related(newest_first)]) -> None:
    seen.append([order.total for order in user.orders])


async def test_the_annotation_says_what_is_loaded(sqlite: str, statements: Statements) -> None:
    configured(sqlite)
    user = await User.create(email="ann@example.com")
    orders = [await Order.create(user=user, total=total) for total in (1, 2)]
    calls: list[Any] = [
        with_orders(user),
        with_user(orders[0]),
        with_email_only(user),
        with_sorted_orders(user),
        with_sorted_orders(user),
    ]
    for call in calls:
        await call.dispatch()
    await work(concurrency=1)
    assert seen == [
        [1, 2],
        "ann@example.com",
        ("ann@example.com", user.pk, False),
        [2, 1],
        [2, 1],
    ]


@task(max_attempts=1)
async def from_replica(user: Annotated[User, using("replica")]) -> None:
    seen.append(user.email)


async def test_using_reads_from_the_database_it_names(
    tmp_path: Any, initialise: Initialise
) -> None:
    urls = {name: f"sqlite://{tmp_path}/{name}.db" for name in ("replica", "default")}
    for name, url in urls.items():
        await initialise(db_url=url)
        user = await User.create(email=f"{name}@example.com")
    apps = {"models": {"models": MODULES["models"], "default_connection": "default"}}
    config = {"connections": urls, "apps": apps}
    init({"driver": "memory"}, tortoise_config=config)
    await from_replica(user).dispatch()
    await forget_initialisation()
    await work()
    assert seen == ["replica@example.com"]


Locked = Annotated[User, select_for_update()]


@task(max_attempts=1)
async def count_up(user: Locked) -> None:
    before = len(user.name)
    await asyncio.sleep(0.01)
    user.name = "x" * (before + 1)
    await user.save()
    seen.append(before)


@pytest.mark.parametrize("url", ["asyncpg", "psycopg", "mysql"], indirect=True)
async def test_locked_rows_are_changed_by_one_task_after_the_other(
    url: str, initialise: Initialise
) -> None:
    configured(url, maxsize=10)
    await initialise(db_url=url)
    user = await User.create(email="ann@example.com")
    for _ in range(8):
        await count_up(user).dispatch()
    await forget_initialisation()
    await work(concurrency=8)
    assert sorted(seen) == list(range(8))


@task(max_attempts=1)
async def change_and_fail(user: Locked, should_fail: bool) -> None:
    user.name = "changed"
    await user.save()
    await note_email(user).dispatch()
    if should_fail:
        raise ValueError("after the change")


@pytest.mark.parametrize("should_fail", [True, False])
async def test_the_transaction_of_a_lock_ends_as_the_task_does(
    sqlite: str, should_fail: bool, initialise: Initialise
) -> None:
    configured(sqlite)
    user = await User.create(email="ann@example.com")
    await change_and_fail(user, should_fail).dispatch()
    await forget_initialisation()
    await work()
    await initialise(db_url=sqlite, schemas=False)
    assert (await User.get(id=user.id)).name == ("" if should_fail else "changed")
    assert seen == ([] if should_fail else ["ann@example.com"])


# --- commit first ----------------------------------------------------------------------------


async def test_a_dispatch_in_a_block_waits_and_has_its_handle_at_once(sqlite: str) -> None:
    configured(sqlite)
    async with in_transaction():
        user = await User.create(email="ann@example.com")
        handle = await note_email(user).dispatch()
        assert handle.id
        now = await note_email(user).on_commit(False).dispatch()
        assert now.id != handle.id
    with suppress(ValueError):
        async with in_transaction():
            await note_email(await User.create(email="bob@example.com")).dispatch()
            raise ValueError("no")
    await work()
    assert seen == ["ann@example.com"] * 2


async def test_on_commit_waits_for_a_block_without_any_model(sqlite: str) -> None:
    configured(sqlite)
    async with in_transaction() as connection:
        await note_word("client").on_commit(connection).dispatch()
        await note_word("context").on_commit(True).dispatch()
        await note_word("now").dispatch()
        await work()
        assert seen == ["now"]
    await work()
    assert seen == ["now", "client", "context"]


@task
async def note_word(word: str) -> None:
    seen.append(word)


# --- execute ---------------------------------------------------------------------------------


async def test_execute_runs_a_task_here_with_the_instance_given(sqlite: str) -> None:
    user = await User.create(email="test@example.com", name="Test User")
    await note_user(user=user).execute()
    assert seen == [(User, "test@example.com", True, 1)]


async def test_two_tasks_never_share_an_instance(sqlite: str) -> None:
    configured(sqlite)
    user = await User.create(email="ann@example.com")
    for _ in range(2):
        await keep(user).dispatch()
    await work()
    first, second = seen
    assert first == second
    assert first is not second


@task
async def keep(user: User) -> None:
    seen.append(user)
