"""What happens to a queue file when processes die, the disk fills up, or somebody takes it away."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from asynctasq import BrokerError, BrokerUnavailable, SQLiteConfig
from asynctasq.brokers import ConsumerOptions, Delivery, Outcome, Outgoing, WorkerInfo
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq.brokers.sqlite.consumer import SQLiteConsumer

from ..queue_files import OpenSQLite, sqlite_brokers

ROUNDS = int(os.environ.get("ASYNCTASQ_FAULT_ROUNDS", "200"))
PROGRAM = Path(__file__).parent / "programs" / "sqlite_victims.py"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue" / "queue.db"


@pytest_asyncio.fixture
async def open_sqlite(path: Path) -> AsyncIterator[OpenSQLite]:
    async with sqlite_brokers(path, busy_timeout=0.5) as open_one:
        yield open_one


@pytest_asyncio.fixture
async def broker(open_sqlite: OpenSQLite) -> SQLiteBroker:
    return open_sqlite()


class Victims:
    """The program that forks processes to be killed."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def start(self, *arguments: object) -> int:
        """The process id of a new one."""
        assert self._program.stdin is not None
        print(*arguments, file=self._program.stdin, flush=True)
        return self.read()

    def read(self) -> int:
        """The next number that the program prints."""
        assert self._program.stdout is not None
        return int(self._program.stdout.readline())

    def end(self) -> None:
        """End the program."""
        self._program.communicate(timeout=30)


@pytest.fixture
def victims() -> Iterator[Victims]:
    started = Victims()
    yield started
    started.end()


def consumer_of(broker: SQLiteBroker, lease_seconds: float = 30) -> SQLiteConsumer:
    worker = WorkerInfo(f"test-{random.random()}", "host", os.getpid(), ("q",), 10, time.time())
    return broker.consumer(ConsumerOptions(worker, ("q",), lease_seconds))


async def take_all(broker: SQLiteBroker, quiet_seconds: float) -> list[Delivery]:
    """Take and finish until nothing has come for so long."""
    consumer = consumer_of(broker)
    taken: list[Delivery] = []
    while more := await consumer.take(500, quiet_seconds):
        await consumer.settle([Outcome(delivery) for delivery in more])
        taken += more
    await consumer.stop()
    return taken


async def test_processes_killed_at_random_moments_lose_nothing_and_repeat_only_what_was_in_flight(
    broker: SQLiteBroker, path: Path, tmp_path: Path, victims: Victims
) -> None:
    ids = [f"{i:06}" for i in range(ROUNDS * 30)]
    await broker.put([Outgoing("q", i, b"first") for i in ids])
    log, lease = tmp_path / "log", 0.5
    alive = [victims.start("work", path, lease, log) for _ in range(2)]
    for _ in range(ROUNDS):
        await asyncio.sleep(random.uniform(0, 0.04))  # the subject: any moment
        os.kill(alive.pop(0), signal.SIGKILL)
        alive.append(victims.start("work", path, lease, log))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    dead = await broker.dead_letters("q")
    await broker.retry_dead("q", [(letter.id, b"last") for letter in dead])
    left = await take_all(broker, lease + 1)
    ran, settled = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for line in log.read_text().splitlines():
        if line.endswith(" whole"):
            _, what, message_id, body, _ = line.split()
            (ran if what == "ran" else settled)[message_id, body] += 1
    finished_here = {delivery.id for delivery in left}
    finished_there = {message_id for message_id, _ in ran}
    assert finished_here | finished_there == set(ids)
    for message_id in ids:
        assert message_id in finished_here or await broker.result("q", message_id, 0) == b"result"
    in_flight = {run: count - settled[run] for run, count in ran.items()}
    repeated = {run for run, count in ran.items() if count > 1 + in_flight[run]}
    assert repeated == set()
    assert len(settled) > ROUNDS
    assert await broker.dead_letters("q") == []
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_process_killed_at_any_statement_leaves_every_message_in_one_state(
    path: Path, tmp_path: Path, victims: Victims, when: str
) -> None:
    names = ("done", "retry", "dead", "release")
    sender = SQLiteBroker(SQLiteConfig(path=path))
    await sender.put([Outgoing("q", name, b"first") for name in names])
    await sender.close()
    number, ended = 0, 1
    while ended != 0:
        number += 1
        copy = tmp_path / f"{number}" / "queue.db"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        victims.start("step", copy, number, when)
        ended = victims.read()
        assert ended in (0, -signal.SIGKILL)
        await check_states(copy)
        shutil.rmtree(copy.parent)
    assert number > 60


async def check_states(path: Path) -> None:
    """Nothing lost, nothing half done, and all that is left comes within the lease."""
    broker = SQLiteBroker(SQLiteConfig(path=path))
    done = await broker.state("q", "done")
    assert (done is None) == (await broker.result("q", "done", 0) == b"result")
    assert await broker.state("q", "release") is not None
    letters = await broker.find_dead("q", ["dead"])
    assert (await broker.state("q", "dead") == "dead") == (len(letters) == 1)
    assert [letter.info for letter in letters] == [b"why"] * len(letters)
    one, two = await broker.state("q", "one"), await broker.state("q", "two")
    cancelled = await broker.result("q", "one", 0) == b"cancelled"
    assert (two is not None) == (one is not None or cancelled)
    expected = {"retry", "release"} | (set() if letters else {"dead"})
    expected |= {name for name, state in (("done", done), ("one", one), ("two", two)) if state}
    consumer = consumer_of(broker)
    taken: list[Delivery] = []
    deadline = time.monotonic() + 1.3
    while len(taken) < len(expected) and time.monotonic() < deadline:
        taken += await consumer.take(10, 0.2)
    assert sorted(delivery.id for delivery in taken) == sorted(expected)
    assert {d.body for d in taken if d.id in ("done", "release")} <= {b"first"}
    await broker.close()


async def test_a_lock_that_stays_is_reported_within_the_busy_timeout_however_many_ask(
    broker: SQLiteBroker, path: Path
) -> None:
    await broker.put([Outgoing("q", "before", b"")])
    consumer = consumer_of(broker)
    [held] = await consumer.take(1, 0)
    holder = lock(path)
    try:
        started = time.monotonic()
        puts = [broker.put([Outgoing("q", f"{i}", b"")]) for i in range(20)]
        errors = await asyncio.gather(*puts, return_exceptions=True)
        assert time.monotonic() - started < 2
        assert all(isinstance(error, BrokerUnavailable) for error in errors)
        assert str(path) in str(errors[0])
        with pytest.raises(BrokerUnavailable):
            await consumer.settle([Outcome(held)])
        with pytest.raises(BrokerUnavailable):
            await asyncio.to_thread(consumer.renew, [held])
        assert await broker.state("q", "before") == "running"
    finally:
        holder.kill()
        holder.wait()
    assert await consumer.settle([Outcome(held)]) == []
    await broker.put([Outgoing("q", "after", b"")])
    assert [delivery.id for delivery in await consumer.take(10, 0)] == ["after"]


async def test_a_short_lock_is_waited_for(broker: SQLiteBroker, path: Path) -> None:
    await broker.put([Outgoing("q", "before", b"")])
    holder = lock(path, seconds=0.2)
    await broker.put([Outgoing("q", "after", b"")])
    assert await broker.state("q", "after") == "waiting"
    assert holder.wait() == 0


async def test_a_stop_while_the_file_is_locked_raises_nothing_and_leases_run_out(
    broker: SQLiteBroker, path: Path
) -> None:
    await broker.put([Outgoing("q", "a", b"")])
    consumer = consumer_of(broker, lease_seconds=1)
    await consumer.take(1, 0)
    holder = lock(path)
    try:
        await consumer.stop()
    finally:
        holder.kill()
        holder.wait()
    [again] = await consumer_of(broker).take(1, 5)
    assert again.deliveries == 2


def lock(path: Path, seconds: float = 60) -> subprocess.Popen[str]:
    """A process that is in the middle of a write transaction, with something unfinished."""
    program = f"""
import sqlite3, time
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
db.execute("DELETE FROM message")
print("locked", flush=True)
time.sleep({seconds})
db.execute("ROLLBACK")
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    holder.stdout.close()
    return holder


FULL = """
import asyncio, contextlib, resource, sqlite3, sys, time
from asynctasq import BrokerUnavailable
from asynctasq.brokers import ConsumerOptions, Outcome, Outgoing, WorkerInfo
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq import SQLiteConfig

path, kind = sys.argv[1:]
limited = []
connections = []
connect = sqlite3.connect

def limit_pages(db):
    db.execute(f"PRAGMA max_page_count = {300 if limited else 2**30}")

def connect_limited(*args, **options):
    db = connect(*args, **options)
    connections.append(db)
    if kind == "pages":
        limit_pages(db)
    return db

def limit(on):
    limited[:] = [True] if on else []
    if kind == "pages":
        for db in connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed since
                limit_pages(db)
    if kind == "bytes":
        size = 2_000_000 if on else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

sqlite3.connect = connect_limited

def some(start):
    return [Outgoing("q", f"{start + i:06}", b"x" * 20_000) for i in range(10)]

async def main():
    broker = SQLiteBroker(SQLiteConfig(path=path))
    worker = WorkerInfo("w", "host", 1, ("q",), 1, time.time())
    consumer = broker.consumer(ConsumerOptions(worker, ("q",)))
    limit(True)
    await broker.put(some(0))
    held = await consumer.take(5, 0)
    put = 10
    try:
        while put < 10_000:
            await broker.put(some(put))
            put += 10
    except BrokerUnavailable as e:
        print(e)
    assert put < 10_000
    refused = 0
    while refused < 3:  # after an error the log is emptied, so that a little more may fit
        try:
            await broker.put(some(put))
            put, refused = put + 10, 0
        except BrokerUnavailable:
            refused += 1
    states = [await broker.state("q", f"{i:06}") for i in range(put + 10)]
    assert states == ["running"] * 5 + ["waiting"] * (put - 5) + [None] * 10, states
    limit(False)
    await consumer.settle([Outcome(delivery) for delivery in held])
    await broker.put(some(put))
    [stats] = await broker.stats()
    assert (stats.waiting, stats.running) == (put + 5, 0), stats
    await broker.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["bytes", "pages"])
def test_a_full_disk_is_reported_and_loses_nothing(path: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), kind], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    assert "nothing was changed" in done.stdout


READ_ONLY = """
import asyncio, os, sys
from asynctasq import BrokerUnavailable
from asynctasq.brokers import Outgoing
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq import SQLiteConfig

folder = sys.argv[1]
path = f"{folder}/queue.db"
if os.geteuid() == 0:  # root may write anything
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)

async def main():
    first = SQLiteBroker(SQLiteConfig(path=path))
    await first.put([Outgoing("q", "a", b"")])
    await first.close()
    os.chmod(path, 0o444)
    os.chmod(folder, 0o555)
    broker = SQLiteBroker(SQLiteConfig(path=path))
    for attempt in range(2):
        try:
            await broker.put([Outgoing("q", "b", b"")])
            raise SystemExit("it could be written")
        except BrokerUnavailable as e:
            print(e)
    [finding] = await broker.check()
    assert finding.level == "error"
    os.chmod(folder, 0o755)
    os.chmod(path, 0o644)
    await broker.put([Outgoing("q", "b", b"")])
    [stats] = await broker.stats()
    assert stats.waiting == 2
    await broker.close()

asyncio.run(main())
"""


def test_a_read_only_file_is_reported_until_it_can_be_written() -> None:
    # Not in pytest's folder: who is no longer root may not even look into that.
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = f"{parent}/queue"
        os.mkdir(folder)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, folder], capture_output=True, text=True, timeout=60
        )
        os.chmod(folder, 0o755)
    assert done.returncode == 0, done.stderr
    assert f"{folder}/queue.db" in done.stdout
    assert "permissions" in done.stdout


async def test_a_file_deleted_under_a_broker_is_made_anew(
    broker: SQLiteBroker, open_sqlite: OpenSQLite, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.put([Outgoing("q", "gone", b"")])
    consumer = consumer_of(broker)
    [held] = await consumer.take(1, 0)
    waiting = asyncio.ensure_future(consumer.take(1, 10))
    await asyncio.sleep(0)
    shutil.rmtree(path.parent)
    await open_sqlite().put([Outgoing("q", "new", b"")])
    assert [delivery.id for delivery in await waiting] == ["new"]
    lost = Outcome(held)
    assert await consumer.settle([lost]) == [lost]
    assert await asyncio.to_thread(consumer.renew, []) == []
    await consumer.stop()
    assert "deleted or replaced" in caplog.text


async def test_a_file_that_is_replaced_by_another_is_used_from_then_on(
    broker: SQLiteBroker, path: Path, tmp_path: Path
) -> None:
    other = SQLiteBroker(SQLiteConfig(path=tmp_path / "other.db"))
    await other.put([Outgoing("q", "other", b"")])
    await other.close()
    await broker.put([Outgoing("q", "gone", b"")])
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    (tmp_path / "other.db").rename(path)
    assert await broker.state("q", "other") == "waiting"
    assert await broker.state("q", "gone") is None


async def test_a_file_that_is_no_database_is_refused_and_left_alone(
    broker: SQLiteBroker, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(BrokerError, match="not a queue file") as raised:
        await broker.put([Outgoing("q", "a", b"")])
    assert not isinstance(raised.value, BrokerUnavailable)
    assert path.read_bytes() == b"Dear diary, " * 1000
    path.unlink()
    await broker.put([Outgoing("q", "a", b"")])


async def test_a_database_of_another_application_is_refused_and_left_alone(
    broker: SQLiteBroker, path: Path
) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE customer (id INTEGER)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(BrokerError, match="another application"):
        await broker.put([Outgoing("q", "a", b"")])
    await broker.close()
    assert path.read_bytes() == before


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(
    broker: SQLiteBroker, path: Path
) -> None:
    await broker.put([Outgoing("q", "a", b"")])
    await broker.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(BrokerError, match=r"version 99.*upgrade"):
        await broker.state("q", "a")


async def test_a_damaged_file_is_named_with_what_to_do(broker: SQLiteBroker, path: Path) -> None:
    await broker.put([Outgoing("q", f"{i}", b"x" * 500) for i in range(500)])
    await broker.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(BrokerError, match=r"damaged.*\.recover") as raised:
        await consumer_of(broker).take(10, 0)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("obstacle", ["a folder in its place", "a file in its folder's place"])
async def test_a_path_that_cannot_be_a_file_is_reported(
    broker: SQLiteBroker, path: Path, obstacle: str
) -> None:
    if obstacle == "a folder in its place":
        path.mkdir(parents=True)
    else:
        path.parent.write_bytes(b"")
    with pytest.raises(BrokerUnavailable, match=r"queue\.db"):
        await broker.put([Outgoing("q", "a", b"")])
