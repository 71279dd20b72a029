"""The SQLite broker keeps every promise of the broker protocol, and those of its file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asynctasq import ConfigurationError, SQLiteConfig
from asynctasq.brokers import (
    Action,
    ConsumerOptions,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    RateKey,
    UniqueKey,
    WorkerInfo,
)
from asynctasq.brokers.sqlite import clock
from asynctasq.brokers.sqlite import queries as sqlite_queries
from asynctasq.brokers.sqlite import transitions as sqlite_transitions
from asynctasq.brokers.sqlite.awaited_results import AwaitedResults
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq.brokers.sqlite.consumer import SQLiteConsumer
from asynctasq.brokers.sqlite.file import CHECKPOINT_BYTES, SQLiteFile
from asynctasq.brokers.sqlite.states import WAITING
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
    lists = True
    coordinates = True
    polices = True
    remembers = True
    pauses = True

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


async def test_a_new_file_and_its_folder_are_for_their_user_alone(
    broker: SQLiteBroker, path: Path
) -> None:
    before = os.umask(0)
    try:
        await broker.put(messages(0, 1))
    finally:
        os.umask(before)
    files = list(path.parent.iterdir())
    assert sorted(file.name for file in files) == ["queue.db", "queue.db-shm", "queue.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_permissions_that_somebody_chose_are_kept(broker: SQLiteBroker, path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o750)
    path.touch()
    path.chmod(0o640)
    await broker.put(messages(0, 1))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o640}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


async def test_a_path_with_characters_that_mean_something_in_a_uri_is_a_path(
    tmp_path: Path,
) -> None:
    path = tmp_path / "50% é?mode=memory#" / "a queue?.db"
    broker = SQLiteBroker(SQLiteConfig(path=path))
    await broker.put(messages(0, 1))
    await broker.close()
    assert [file.name for file in path.parent.iterdir()] == ["a queue?.db"]


async def test_a_wall_clock_that_is_set_takes_no_lease_from_its_holder(
    broker: SQLiteBroker, open_sqlite: OpenSQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, other = broker.consumer(options()), open_sqlite().consumer(options(worker="other"))
    await consumer.start()
    await broker.put([*messages(0, 1), Outgoing("default", "later", b"", time.time() + 1800)])
    [held] = await consumer.take(1, 0)
    assert await broker.lead("name", "holder", 30)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert [delivery.id for delivery in await other.take(10, 0.2)] == ["later"]
    assert await broker.state("default", "00000000") == "running"
    assert [(worker.id, worker.running) for worker in await broker.workers()] == [("w", 1)]
    assert not await broker.lead("name", "other", 30)
    assert await broker.purge("default") == 0
    assert not await broker.cancel("default", "00000000", None, 0)
    assert await asyncio.to_thread(consumer.renew, [held]) == []
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    assert await other.take(10, 0) == []
    assert await consumer.settle([Outcome(held)]) == []
    await consumer.stop()
    await other.stop()


async def test_what_was_leased_before_the_machine_last_started_is_given_to_anyone_at_once(
    broker: SQLiteBroker, open_sqlite: OpenSQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = broker.consumer(options())
    await consumer.start()
    await broker.put(messages(0, 3))
    held = await consumer.take(2, 0)
    assert await broker.lead("name", "holder", 3600)
    await broker.close()
    monkeypatch.setattr(clock, "BOOT", "another start")
    monkeypatch.setattr(clock, "now", partial(next, count(1.0)))
    after = open_sqlite()
    [stats] = await after.stats()
    assert (stats.waiting, stats.running) == (3, 0)
    assert await after.workers() == []
    assert await after.lead("name", "another", 30)
    again = after.consumer(options(worker="another"))
    taken = await again.take(10, 0)
    assert [(d.id, d.deliveries) for d in taken] == [
        ("00000000", 2),
        ("00000001", 2),
        ("00000002", 1),
    ]
    assert len(await again.settle([Outcome(delivery) for delivery in held])) == 2
    assert await open_sqlite().state("default", "00000000") == "running"


async def test_a_file_of_version_1_is_brought_up_to_date(
    broker: SQLiteBroker, open_sqlite: OpenSQLite, path: Path
) -> None:
    await broker.put(messages(0, 2))
    await broker.consumer(options()).take(1, 0)
    await broker.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE lead")
        db.execute("DROP TABLE boot")
        db.execute("UPDATE message SET at = ? WHERE state = 0", (time.time() + 30,))
        db.execute("PRAGMA user_version = 1")
    consumer = open_sqlite().consumer(options())
    assert len(await consumer.take(10, 0)) == 2
    assert await open_sqlite().lead("name", "holder", 30)


def test_the_machine_has_a_name_for_its_last_start() -> None:
    program = "from asynctasq.brokers.sqlite import clock; print(clock.BOOT, clock.now.__name__)"
    boot, name = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert boot == clock.BOOT
    assert name == "monotonic"


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


async def test_a_closed_broker_has_closed_every_connection_it_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    closed: list[sqlite3.Connection] = []

    class Watched(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            opened.append(self)

        def close(self) -> None:
            super().close()
            closed.append(self)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    broker = SQLiteBroker(SQLiteConfig(path=path))
    for _ in range(2):
        await broker.put(messages(0, 1))
        consumers = [broker.consumer(options(worker=f"{i}")) for i in range(2)]
        for consumer in consumers:
            await consumer.start()
            await asyncio.to_thread(consumer.renew, [])
        await consumers[0].stop()  # the other is left as it is
        await asyncio.to_thread(consumers[1].renew, [])
        await broker.close()
        assert len(opened) > 1
        assert set(closed) == set(opened)


async def test_closing_a_broker_that_was_not_used_starts_no_thread(path: Path) -> None:
    before = threading.enumerate()
    await SQLiteBroker(SQLiteConfig(path=path)).close()
    assert threading.enumerate() == before
    assert not path.exists()


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
        sqlite_transitions.delete_some(db, "default", WAITING, 0)
        sqlite_transitions.withdraw(db, "w", ["default"], undo=True)
        sqlite_transitions.lead(db, "name", "w", 30)
        sqlite_transitions.resign(db, "name", "w")
        sqlite_queries.ready_in(db, ["default"])
        sqlite_queries.state(db, "default", "00000000")
        sqlite_queries.result(db, "default", "00000000")
        sqlite_queries.dead_letters(db, "default", 10, 10)
        sqlite_queries.find_dead(db, "default", ["00000002"])
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
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq import SQLiteConfig

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
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq import SQLiteConfig

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


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o600, []), (0o660, []), (0o644, ["read"]), (0o666, ["changed"])]
)
async def test_the_check_tells_of_a_file_that_others_can_get_at(
    broker: SQLiteBroker, path: Path, mode: int, expected: list[str]
) -> None:
    await broker.put(messages(0, 1))
    path.chmod(mode)
    found = [finding for finding in await broker.check() if finding.level == "warning"]
    about = [finding for finding in found if finding.subject == "sqlite permissions"]
    assert [word for word in ("read", "changed") for f in about if f"be {word} by" in f.text] == (
        expected
    )
    assert len(about) == len(expected)


@pytest.mark.parametrize("waiting", [1, 2, 50])
async def test_looking_for_awaited_results_does_not_cost_by_the_results_of_others(
    path: Path, waiting: int
) -> None:
    file = SQLiteFile(SQLiteConfig(path=path))
    steps = 0

    def count_step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def keep(first: int, number: int) -> None:
        with file.transaction() as db:
            for i in range(first, first + number):
                sqlite_transitions.keep(db, "default", f"{i}", b"kept", 60)

    def look(awaited: AwaitedResults) -> int:
        nonlocal steps
        steps = 0
        with file.snapshot() as db:
            db.set_progress_handler(count_step, 10)
            awaited.look(db, file.times_opened)
            db.set_progress_handler(None, 0)
        return steps

    awaited = AwaitedResults()
    with ExitStack() as stack:
        futures = [stack.enter_context(awaited.waiter("default", f"{i}")) for i in range(waiting)]
        keep(1_000, 20_000)  # before anybody looked
        at_first = look(awaited)
        keep(30_000, 20_000)
        later = look(awaited)
        assert max(at_first, later) < 10 + 10 * waiting
        keep(waiting - 1, 1)
        look(awaited)
        async with asyncio.timeout(5):
            assert await futures[-1] == b"kept"
        assert [future for future in futures[:-1] if future.done()] == []
    file.close()


async def test_a_file_of_an_earlier_version_learns_of_policies(path: Path) -> None:
    path.parent.mkdir()
    earlier = """
        CREATE TABLE queue (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
        CREATE TABLE message (place INTEGER PRIMARY KEY, queue INTEGER NOT NULL, id TEXT NOT NULL,
            state INTEGER NOT NULL, at REAL NOT NULL, deliveries INTEGER NOT NULL DEFAULT 0,
            owner TEXT, lease INTEGER, body BLOB NOT NULL, info BLOB);
        INSERT INTO queue VALUES (1, 'default');
        INSERT INTO message (place, queue, id, state, at, body) VALUES (1 << 40, 1, 'a', 2, 0, x'');
        PRAGMA application_id = 1634956401; PRAGMA user_version = 2;
    """
    with closing(sqlite3.connect(path)) as db:
        db.executescript(earlier)
    broker = SQLiteBroker(SQLiteConfig(path=str(path)))
    policy = Policy(UniqueKey("key"), LimitKey("key", 1))
    await broker.put([Outgoing("default", "b", b"", priority=1, policy=policy)])
    assert await broker.put([Outgoing("default", "c", b"", policy=policy)]) == {"c": "b"}
    consumer = broker.consumer(options())
    await consumer.start()
    assert [delivery.id for delivery in await consumer.take(3, 0)] == ["b", "a"]
    await consumer.stop()
    await broker.close()


async def test_keys_that_are_used_no_more_leave_nothing_in_the_file(
    broker: SQLiteBroker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = broker.consumer(options())
    await consumer.start()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for i in range(60):
        policy = Policy(UniqueKey(f"{i}", lasts_seconds=1), LimitKey(f"{i}", 1), RateKey(f"{i}", 1))
        await broker.put([Outgoing("default", str(i), b"", policy=policy)])
        assert await drain(consumer) == 1
        now += 2
    await consumer.stop()
    with closing(sqlite3.connect(path)) as db:
        counts = [db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("line", "rate")]
        assert counts[0] == 0
        assert counts[1] <= 2
        assert db.execute("SELECT count(*) FROM taken").fetchone()[0] <= 2
