"""The SQLite broker keeps every promise of the broker protocol, and those of its file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asynctasq import ConfigurationError
from asynctasq.brokers import (
    Action,
    ConsumerOptions,
    Outcome,
    Outgoing,
    WorkerInfo,
    sqlite_queries,
    sqlite_transitions,
)
from asynctasq.brokers.sqlite import SQLiteBroker, SQLiteConsumer
from asynctasq.brokers.sqlite_file import CHECKPOINT_BYTES, SQLiteFile
from asynctasq.brokers.sqlite_results import AwaitedResults
from asynctasq.config import SQLiteConfig
from asynctasq.testing import BrokerSuite, OpenBroker

from ..queue_files import OpenSQLite, sqlite_brokers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "queue.db"


@pytest_asyncio.fixture
async def open_sqlite(path: Path) -> AsyncIterator[OpenSQLite]:
    async with sqlite_brokers(path) as open_one:
        yield open_one


@pytest_asyncio.fixture
async def broker(open_sqlite: OpenSQLite) -> SQLiteBroker:
    return open_sqlite()


def options(queue: str = "default", worker: str = "w") -> ConsumerOptions:
    return ConsumerOptions(WorkerInfo(worker, "host", 1, (queue,), 1, time.time()), (queue,))


def messages(first: int, count: int, body: bytes = b"body") -> list[Outgoing]:
    return [Outgoing("default", f"{i:08}", body) for i in range(first, first + count)]


async def drain(consumer: SQLiteConsumer) -> int:
    drained = 0
    while taken := await consumer.take(500, 0):
        await consumer.settle([Outcome(delivery) for delivery in taken])
        drained += len(taken)
    return drained


class TestSQLiteBroker(BrokerSuite):
    @pytest_asyncio.fixture
    async def open_broker(self, open_sqlite: OpenSQLite) -> OpenBroker:
        return open_sqlite


async def test_the_file_is_made_with_its_folder_and_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    broker = SQLiteBroker(SQLiteConfig(path="a/b/queue.db"))
    monkeypatch.chdir("/")
    await broker.put(messages(0, 1))
    await broker.close()
    assert broker.describe() == f"sqlite {tmp_path}/a/b/queue.db"
    assert (tmp_path / "a" / "b" / "queue.db").exists()


def test_a_path_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory"):
        SQLiteBroker(SQLiteConfig(path=":memory:"))


async def test_many_brokers_may_make_the_file_at_the_same_time(open_sqlite: OpenSQLite) -> None:
    brokers = [open_sqlite() for _ in range(10)]
    await asyncio.gather(*(b.put(messages(i, 1)) for i, b in enumerate(brokers)))
    [stats] = await brokers[0].stats()
    assert stats.waiting == 10


@pytest.mark.parametrize("step", range(1, 6))
def test_another_process_may_make_the_file_between_any_two_looks_at_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    connect = sqlite3.connect
    seen: list[str] = []

    class Overtaken(sqlite3.Connection):
        def execute(self, statement: str, /, *parameters: Any) -> sqlite3.Cursor:
            seen.append(statement)
            if len(seen) == step:
                monkeypatch.setattr(sqlite3, "connect", connect)
                with closing(SQLiteFile(SQLiteConfig(path=path))) as other, other.transaction():
                    pass
            return super().execute(statement, *parameters)

    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=Overtaken))
    with closing(SQLiteFile(SQLiteConfig(path=path))) as file, file.transaction() as db:
        assert db.execute("SELECT count(*) FROM message").fetchone() == (0,)
    assert len(seen) >= step


def test_one_broker_serves_one_event_loop_after_another(path: Path) -> None:
    broker = SQLiteBroker(SQLiteConfig(path=path))

    async def put_and_take() -> list[str]:
        consumer = broker.consumer(options())
        waiting = asyncio.ensure_future(consumer.take(1, 10))
        await asyncio.sleep(0)
        await broker.put(messages(0, 1))
        taken = await waiting
        await consumer.settle([Outcome(delivery) for delivery in taken])
        return [delivery.id for delivery in taken]

    assert asyncio.run(put_and_take()) == asyncio.run(put_and_take()) == ["00000000"]
    asyncio.run(broker.close())


async def test_no_statement_looks_through_all_messages_or_sorts_them(path: Path) -> None:
    """Counting is the one exception, and it reads an index only."""
    file = SQLiteFile(SQLiteConfig(path=path))
    statements: list[str] = []
    with file.transaction() as db:
        db.set_trace_callback(statements.append)
        sqlite_transitions.put(db, messages(0, 8))
        taken = sqlite_transitions.take(db, options(), 1, 7)
        sqlite_transitions.renew(db, options(), taken)
        outcomes = [Outcome(d, a) for d, a in zip(taken, Action, strict=False)]
        outcomes[0].result, outcomes[0].result_ttl = b"result", 60
        sqlite_transitions.settle(db, outcomes)
        sqlite_transitions.cancel(db, "default", "00000007", b"cancelled", 60)
        sqlite_transitions.retry_dead(db, "default", [("00000002", b"")])
        sqlite_transitions.delete_dead(db, "default", ["00000002"])
        sqlite_transitions.delete_some(db, "default", sqlite_transitions.WAITING, 0)
        sqlite_transitions.withdraw(db, "w", ["default"], undo=True)
        sqlite_queries.ready_at(db, ["default"])
        sqlite_queries.state(db, "default", "00000000")
        sqlite_queries.result(db, "default", "00000000")
        sqlite_queries.dead_letters(db, "default", 10, 10)
        sqlite_queries.dead_letter(db, "default", "00000002")
        sqlite_queries.stats(db)
        sqlite_queries.workers(db)
        db.set_trace_callback(None)
        statements = [statement.replace("Inf", "9e999") for statement in statements]
        plans = {
            statement: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in statements
            if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT"))
        }
    file.close()
    bad = {
        statement: plan
        for statement, plan in plans.items()
        if any(s.startswith(("SCAN", "USE TEMP")) and s != "SCAN CONSTANT ROW" for s in plan)
        and not ("FROM worker" in statement or "FROM queue" in statement)
    }
    assert len(plans) > 25
    assert bad == {}


async def test_taking_and_settling_costs_the_same_with_few_and_many_waiting(path: Path) -> None:
    file = SQLiteFile(SQLiteConfig(path=path))

    def steps_of_a_batch() -> int:
        """Instructions of SQLite's virtual machine to take and settle 100 messages."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with file.transaction() as db:
            db.set_progress_handler(count, 10)
            taken = sqlite_transitions.take(db, options(), 1, 100)
            assert len(taken) == 100
            assert sqlite_transitions.settle(db, [Outcome(delivery) for delivery in taken]) == []
            db.set_progress_handler(None, 0)
        return counted

    with file.transaction() as db:
        sqlite_transitions.put(db, messages(0, 1_000))
    few = steps_of_a_batch()
    with file.transaction() as db:
        sqlite_transitions.put(db, messages(1_000, 50_000))
    many = steps_of_a_batch()
    file.close()
    assert many <= few * 1.05


async def test_a_file_that_is_used_again_and_again_does_not_grow(
    broker: SQLiteBroker, path: Path
) -> None:
    consumer = broker.consumer(options())
    sizes = []
    for _ in range(5):
        await broker.put(messages(0, 3000, b"x" * 300))
        assert await drain(consumer) == 3000
        with sqlite3.connect(path) as db:
            sizes.append(db.execute("PRAGMA page_count").fetchone()[0])
        db.close()
    assert sizes[-1] <= sizes[1]


async def test_the_log_is_brought_back_into_the_file(broker: SQLiteBroker, path: Path) -> None:
    body = b"x" * 100_000
    longest = 0
    for i in range(40):
        await broker.put(messages(i * 10, 10, body))
        longest = max(longest, Path(f"{path}-wal").stat().st_size)
    assert longest <= CHECKPOINT_BYTES
    assert path.stat().st_size > CHECKPOINT_BYTES


async def test_somebody_who_reads_for_long_does_not_hold_up_the_broker(
    broker: SQLiteBroker, path: Path
) -> None:
    log = Path(f"{path}-wal")
    await broker.put(messages(0, 1))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM message").fetchone()
    started = time.monotonic()
    for i in range(1, 60):
        await broker.put(messages(i * 10, 10, b"x" * 100_000))
    assert time.monotonic() - started < 10
    assert log.stat().st_size > CHECKPOINT_BYTES
    reader.close()
    deadline = time.monotonic() + 30
    number = 1000
    while log.stat().st_size > CHECKPOINT_BYTES and time.monotonic() < deadline:
        await broker.put(messages(number, 1))
        number += 1
        await asyncio.sleep(0.05)
    assert log.stat().st_size <= CHECKPOINT_BYTES


async def test_expired_results_are_deleted_from_the_file(broker: SQLiteBroker, path: Path) -> None:
    for i in range(30):
        await broker.put(messages(i, 1))
        assert await broker.cancel("default", f"{i:08}", b"result", 0.001)
    await broker.put(messages(99, 1))
    assert await broker.cancel("default", "00000099", b"result", 60)
    with sqlite3.connect(path) as db:
        [kept] = db.execute("SELECT count(*) FROM result").fetchone()
    db.close()
    assert kept <= 11


async def test_an_idle_consumer_uses_under_one_percent_of_a_processor(
    broker: SQLiteBroker,
) -> None:
    consumer = broker.consumer(options())
    await consumer.start()
    await consumer.take(1, 0)
    shares = []
    for _ in range(3):
        before = time.process_time()
        await consumer.take(1, 1.5)
        shares.append((time.process_time() - before) / 1.5)
    await consumer.stop()
    assert min(shares) < 0.01


async def test_a_broker_works_on_in_a_forked_child(path: Path) -> None:
    program = f"""
import asyncio, os
from asynctasq.brokers import Outgoing
from asynctasq.brokers.sqlite import SQLiteBroker
from asynctasq.config import SQLiteConfig

broker = SQLiteBroker(SQLiteConfig(path={str(path)!r}))

def put(message_id):
    asyncio.run(broker.put([Outgoing("default", message_id, b"")]))

put("parent before")
child = os.fork()
if child == 0:
    put("child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
put("parent after")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    broker = SQLiteBroker(SQLiteConfig(path=path))
    taken = await broker.consumer(options()).take(10, 0)
    assert [delivery.id for delivery in taken] == ["parent before", "child", "parent after"]
    await broker.close()


async def test_several_processes_share_the_work_without_doing_any_twice(
    broker: SQLiteBroker, path: Path
) -> None:
    program = f"""
import asyncio, os, time
from asynctasq.brokers import ConsumerOptions, Outcome, WorkerInfo
from asynctasq.brokers.sqlite import SQLiteBroker
from asynctasq.config import SQLiteConfig

async def main():
    broker = SQLiteBroker(SQLiteConfig(path={str(path)!r}))
    info = WorkerInfo(str(os.getpid()), "host", os.getpid(), ("default",), 1, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("default",)))
    await consumer.start()
    while taken := await consumer.take(20, 2):
        print(*(delivery.id for delivery in taken), sep="\\n")
        assert await consumer.settle([Outcome(delivery) for delivery in taken]) == []
    await consumer.stop()
    await broker.close()

asyncio.run(main())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for first in range(0, 1500, 10):
        await broker.put(messages(first, 10))
    seen: list[str] = []
    for process in processes:
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
        seen += output.split()
    assert sorted(seen) == [message.id for message in messages(0, 1500)]


async def test_the_check_tells_of_a_file_in_memory() -> None:
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    path = folder / f"asynctasq-test-{os.getpid()}.db"
    broker = SQLiteBroker(SQLiteConfig(path=path))
    try:
        findings = {finding.subject: finding for finding in await broker.check()}
    finally:
        await broker.close()
        path.unlink()
    assert findings["sqlite"].level == "ok"
    assert findings["sqlite file system"].level == "warning"
    assert "memory" in findings["sqlite file system"].text


async def test_who_asks_for_a_result_later_keeps_it_from_nobody_who_waits_for_it(
    broker: SQLiteBroker, path: Path
) -> None:
    await broker.put([Outgoing("default", "a", b"body")])
    awaited = AwaitedResults()
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as db,
        awaited.waiter("default", "a") as first,
    ):
        assert awaited.find(db, "default", "a") is None
        insert = "INSERT INTO result (queue, id, body, expires) VALUES (?, ?, ?, ?)"
        db.execute(insert, ("default", "a", b"kept", time.time() + 60))
        with awaited.waiter("default", "a"):
            assert awaited.find(db, "default", "a") == b"kept"
        awaited.look(db, 1)
        async with asyncio.timeout(5):
            assert await first == b"kept"
