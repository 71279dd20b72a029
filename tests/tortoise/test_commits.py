"""Dispatches inside `in_transaction` blocks: at once, after the commit, or never."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import tortoise
from asynctasq import BrokerUnavailable, ConfigurationError, DeletedModelError
from asynctasq_tortoise import adapter
from tortoise.transactions import atomic, in_transaction
from tortoise_shop.models import Country, Event, Order, User

from .conftest import Initialise

HAS_SAVEPOINTS = not tortoise.__version__.startswith("0.21")


class Send:
    """Notes what became of one dispatch."""

    def __init__(self, log: list[str], name: str = "send") -> None:
        self.log = log
        self.name = name
        self.error: Exception | None = None

    def __call__(self) -> None:
        raise AssertionError("on a running loop it is awaited")

    async def send_async(self) -> None:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.log.append(f"{self.name} sent")

    def drop(self) -> None:
        self.log.append(f"{self.name} dropped")


def dispatch(obj: Any, log: list[str], name: str = "send") -> Send:
    """What core does for an instance."""
    send = Send(log, name)
    if adapter.is_pending_write(obj):
        adapter.after_commit(obj, send)
    else:
        log.append(f"{name} at once")
    return send


async def test_a_row_created_in_a_block_is_sent_after_its_commit(db: str) -> None:
    log: list[str] = []
    async with in_transaction():
        user = await User.create(email="ann@example.com")
        dispatch(user, log)
        log.append("end of block")
    assert log == ["end of block", "send sent"]
    dispatch(user, log, "later")
    assert log[-1] == "later at once"


async def test_a_rollback_drops_it(db: str) -> None:
    log: list[str] = []
    with suppress(ValueError):
        async with in_transaction():
            dispatch(await User.create(email="ann@example.com"), log)
            raise ValueError("no")
    assert log == ["send dropped"]


async def test_a_cancelled_block_drops_it(db: str) -> None:
    log: list[str] = []
    inside = asyncio.Event()

    async def run() -> None:
        async with in_transaction():
            dispatch(await User.create(email="ann@example.com"), log)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["send dropped"]


async def test_a_row_only_read_in_a_block_is_sent_at_once(db: str) -> None:
    ann = await User.create(email="ann@example.com")
    log: list[str] = []
    async with in_transaction():
        await User.create(email="bob@example.com")
        dispatch(await User.get(id=ann.id), log)
    assert log == ["send at once"]


async def test_a_row_read_again_after_it_was_written_in_the_block_waits(db: str) -> None:
    ann = await User.create(email="ann@example.com")
    log: list[str] = []
    async with in_transaction():
        ann.name = "Ann"
        await ann.save()
        dispatch(await User.get(id=ann.id), log)
    assert log == ["send sent"]


async def test_rows_of_a_bulk_write_wait(db: str) -> None:
    ann = await User.create(email="ann@example.com")
    order = await Order.create(user=ann, total=1)
    event = await Event.create(number=1)
    country = await Country.create(code="de")
    log: list[str] = []
    async with in_transaction():
        await User.filter(id=ann.id).update(name="Ann")
        dispatch(ann, log, "update")
        await Order.all().delete()
        dispatch(order, log, "delete")
        await Event.bulk_create([Event(number=2)])
        dispatch(event, log, "bulk_create")
        dispatch(country, log, "read")
    assert log == ["read at once", "update sent", "delete sent", "bulk_create sent"]


async def test_a_row_of_bulk_update_waits(db: str) -> None:
    ann = await User.create(email="ann@example.com")
    log: list[str] = []
    async with in_transaction():
        ann.name = "Ann"
        await User.bulk_update([ann], ["name"])
        dispatch(ann, log)
    assert log == ["send sent"]


@pytest.mark.skipif(not HAS_SAVEPOINTS, reason="0.21 itself puts the field for the key's column")
async def test_a_row_of_bulk_update_waits_whatever_the_column_of_its_key(db: str) -> None:
    event = await Event.create(number=1)
    log: list[str] = []
    async with in_transaction():
        event.title = "x"
        await Event.bulk_update([event], ["title"])
        dispatch(event, log)
    assert log == ["send sent"]


async def test_many_are_sent_in_the_order_of_their_dispatches(db: str) -> None:
    log: list[str] = []
    async with in_transaction():
        user = await User.create(email="ann@example.com")
        for i in range(20):
            dispatch(user, log, str(i))
    assert log == [f"{i} sent" for i in range(20)]


async def test_the_decorator_is_a_block_too(sqlite: str) -> None:
    log: list[str] = []

    @atomic()
    async def create() -> None:
        dispatch(await User.create(email="ann@example.com"), log)
        assert log == []

    await create()
    assert log == ["send sent"]


async def test_an_explicit_commit_sends_and_an_explicit_rollback_drops(db: str) -> None:
    log: list[str] = []
    async with in_transaction() as connection:
        dispatch(await User.create(email="ann@example.com"), log, "first")
        await connection.commit()
        assert log == ["first sent"]
    async with in_transaction() as connection:
        dispatch(await User.create(email="bob@example.com"), log, "second")
        await connection.rollback()
    assert log == ["first sent", "second dropped"]
    assert await User.all().count() == 1


@pytest.mark.skipif(not HAS_SAVEPOINTS, reason="nested blocks are savepoints since 0.22")
async def test_a_nested_block_waits_for_the_outermost_commit(db: str) -> None:
    log: list[str] = []
    async with in_transaction():
        async with in_transaction():
            dispatch(await User.create(email="ann@example.com"), log, "inner")
        log.append("inner block over")
        dispatch(await User.create(email="bob@example.com"), log, "outer")
    assert log == ["inner block over", "inner sent", "outer sent"]


@pytest.mark.skipif(not HAS_SAVEPOINTS, reason="nested blocks are savepoints since 0.22")
async def test_a_rolled_back_nested_block_drops_only_its_own(db: str) -> None:
    log: list[str] = []
    async with in_transaction():
        dispatch(await User.create(email="ann@example.com"), log, "before")
        with suppress(ValueError):
            async with in_transaction():
                async with in_transaction():
                    dispatch(await User.create(email="bob@example.com"), log, "innermost")
                dispatch(await User.create(email="cid@example.com"), log, "inner")
                raise ValueError("no")
        log.append("inner block over")
        dispatch(await User.create(email="dan@example.com"), log, "after")
    assert sorted(log[:2]) == ["inner dropped", "innermost dropped"]
    assert log[2:] == ["inner block over", "before sent", "after sent"]
    users = await User.all().order_by("email")
    assert [user.email for user in users] == ["ann@example.com", "dan@example.com"]


async def test_an_inner_block_that_fails_never_sends_what_was_rolled_back(db: str) -> None:
    log: list[str] = []
    with suppress(ValueError):
        async with in_transaction(), in_transaction():
            dispatch(await User.create(email="ann@example.com"), log)
            raise ValueError("no")
    assert log == ["send dropped"]
    assert await User.all().count() == 0


async def test_two_transactions_at_the_same_time_keep_theirs_apart(
    postgres_url: str, initialise: Initialise
) -> None:
    await initialise(db_url=postgres_url)
    logs: dict[str, list[str]] = {"good": [], "bad": []}
    both = asyncio.Barrier(2)

    async def run(name: str) -> None:
        async with in_transaction():
            user = await User.create(email=f"{name}@example.com")
            await both.wait()
            dispatch(user, logs[name])
            await both.wait()
            if name == "bad":
                raise ValueError(name)

    await asyncio.gather(run("good"), run("bad"), return_exceptions=True)
    assert logs == {"good": ["send sent"], "bad": ["send dropped"]}


async def test_a_task_begun_in_a_block_that_is_over_sends_at_once(sqlite: str) -> None:
    log: list[str] = []
    over = asyncio.Event()

    async def later(user: User) -> None:
        await over.wait()
        dispatch(user, log)

    async with in_transaction():
        user = await User.create(email="ann@example.com")
        task = asyncio.create_task(later(user))
    over.set()
    await task
    assert log == ["send at once"]


async def test_the_client_of_a_block_can_be_waited_for(sqlite: str) -> None:
    log: list[str] = []
    async with in_transaction() as connection:
        assert adapter.owns_transaction(connection)
        assert adapter.open_transaction() is connection
        adapter.after_commit(connection, Send(log))
    assert log == ["send sent"]
    assert adapter.open_transaction() is None
    assert not adapter.owns_transaction(object())
    with pytest.raises(ConfigurationError, match="already ended"):
        adapter.after_commit(connection, Send(log))


async def test_one_failing_send_does_not_keep_back_the_next(sqlite: str) -> None:
    log: list[str] = []

    async def run() -> None:
        async with in_transaction():
            user = await User.create(email="ann@example.com")
            dispatch(user, log, "first").error = OSError("broker down")
            dispatch(user, log, "second")

    with pytest.raises(OSError, match="broker"):
        await run()
    assert log == ["second sent"]
    assert await User.all().count() == 1


async def test_what_is_committed_is_sent_though_the_block_is_cancelled(sqlite: str) -> None:
    log: list[str] = []
    may_send, sending = asyncio.Event(), asyncio.Event()

    class Slow(Send):
        async def send_async(self) -> None:
            sending.set()
            await may_send.wait()
            self.log.append(f"{self.name} sent")

    async def run() -> None:
        async with in_transaction() as connection:
            for i in range(3):
                adapter.after_commit(connection, Slow(log, str(i)))

    task = asyncio.create_task(run())
    await sending.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    may_send.set()
    async with asyncio.timeout(5):
        while len(log) < 3:
            await asyncio.sleep(0)
    assert log == ["0 sent", "1 sent", "2 sent"]


async def test_a_failing_commit_drops(postgres_url: str, initialise: Initialise) -> None:
    await initialise(db_url=postgres_url)
    connection = tortoise.connections.get("default")
    await connection.execute_script(
        'ALTER TABLE "order" ADD CONSTRAINT late FOREIGN KEY (user_id) REFERENCES "user" (id) '
        "DEFERRABLE INITIALLY DEFERRED; "
        'ALTER TABLE "order" DROP CONSTRAINT IF EXISTS order_user_id_fkey'
    )
    names = await connection.execute_query_dict(
        "SELECT conname FROM pg_constraint WHERE conrelid = '\"order\"'::regclass "
        "AND contype = 'f' AND conname <> 'late'"
    )
    for row in names:
        await connection.execute_script(f'ALTER TABLE "order" DROP CONSTRAINT "{row["conname"]}"')
    log: list[str] = []
    with pytest.raises(Exception, match="late"):
        async with in_transaction():
            dispatch(await Order.create(user_id=77, total=1), log)
    assert log == ["send dropped"]


async def test_a_rolled_back_deletion_gives_the_row_back(db: str) -> None:
    country = await Country.create(code="de")
    with suppress(ValueError):
        async with in_transaction():
            await country.delete()
            with pytest.raises(DeletedModelError):
                adapter.to_ref(country)
            raise ValueError("no")
    assert adapter.to_ref(country).pk == "de"


async def test_a_transaction_that_nobody_ends_drops_when_it_is_forgotten(sqlite: str) -> None:
    from tortoise.exceptions import TransactionManagementError

    log: list[str] = []
    with suppress(TransactionManagementError):
        async with in_transaction() as connection:
            dispatch(await User.create(email="ann@example.com"), log)
            raise TransactionManagementError("neither commits nor rolls back")
    await connection._parent.execute_query("ROLLBACK")
    del connection
    gc.collect()
    assert log == ["send dropped"]


def test_a_transaction_begun_before_the_adapter_was_loaded_is_waited_for() -> None:
    code = """
import asyncio, sys
sys.path[:0] = sys.argv[1:]
from tortoise import Tortoise
from tortoise.transactions import in_transaction

async def main():
    await Tortoise.init(db_url="sqlite://:memory:", modules={"models": ["tortoise_shop.models"]})
    await Tortoise.generate_schemas()
    from tortoise_shop.models import User
    sent = []
    class Send:
        async def send_async(self): sent.append(1)
    async with in_transaction():
        user = await User.create(email="a@b.c")
        from asynctasq_tortoise import adapter
        assert adapter.is_pending_write(user)
        adapter.after_commit(user, Send())
        assert not sent
    assert sent == [1]
    await Tortoise.close_connections()

asyncio.run(main())
"""
    path = [p for p in sys.path if p.endswith("application")]
    subprocess.run([sys.executable, "-c", code, *path], check=True)


async def test_a_send_that_fails_leaves_nothing_of_the_transaction_behind(db: str) -> None:
    log: list[str] = []

    class Watching(Send):
        async def send_async(self) -> None:
            async with in_transaction():  # which SQLite's one connection must be free for
                await Country.create(code=self.name)
            raise BrokerUnavailable("away")

    async def write(name: str) -> None:
        async with in_transaction():
            user = await User.create(email=f"{name}@example.com")
            adapter.after_commit(user, Watching(log, name))

    for name in ("a", "b"):
        with pytest.raises(BrokerUnavailable):
            await write(name)
    async with asyncio.timeout(10):
        assert await User.all().count() == 2
        assert await Country.all().count() == 2
    assert adapter.open_transaction() is None
