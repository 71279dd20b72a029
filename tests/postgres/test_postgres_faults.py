"""What the PostgreSQL broker does when its server, its connections or its rights fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import pytest_asyncio
from asynctasq import BrokerError, BrokerUnavailable
from asynctasq.brokers import ConsumerOptions, Delivery, Outcome, Outgoing, WorkerInfo
from asynctasq_postgres import Config
from asynctasq_postgres.broker import PostgresBroker
from asynctasq_postgres.consumer import PostgresConsumer

from ..missing import missing
from ..postgres_servers import PostgresProcess, find_postgres
from .brokers import OpenPostgres, postgres_brokers

TIMEOUT = 1.0


@pytest_asyncio.fixture
async def open_postgres(url: str) -> AsyncIterator[OpenPostgres]:
    async with postgres_brokers(Config(url=url)) as open_one:
        await open_one().create_tables()  # which takes its time, where many do it
    async with postgres_brokers(Config(url=url, timeout=TIMEOUT)) as open_one:
        yield open_one


@pytest.fixture
def server() -> Iterator[PostgresProcess]:
    """A server of the test's own."""
    programs = find_postgres()
    if programs is None:
        missing("no PostgreSQL programs to start a server with")
    # For `nobody` to look into: pytest's own folders are for their user alone.
    folder = Path(tempfile.mkdtemp(prefix="asynctasq-postgres-"))
    try:
        process = PostgresProcess(programs, folder)
        process.start()
        yield process
        process.kill()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a disk of its own, of 8 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="asynctasq-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs", str(folder)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("disks can only be mounted by root, and not in every container")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        folder.rmdir()


def options(lease_seconds: float = 30.0, name: str = "worker") -> ConsumerOptions:
    info = WorkerInfo(f"{name}-{time.monotonic_ns()}", "host", 1, ("default",), 1, time.time())
    return ConsumerOptions(info, ("default",), lease_seconds)


def messages(*ids: str) -> list[Outgoing]:
    return [Outgoing("default", i, b"body") for i in ids]


@asynccontextmanager
async def consuming(broker: PostgresBroker, **how: Any) -> AsyncIterator[PostgresConsumer]:
    consumer = broker.consumer(options(**how))
    await consumer.start()
    yield consumer
    await consumer.stop()


async def eventually(call: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """What the call gives once the server is there again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except BrokerUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_server_that_restarts_loses_nothing_and_is_used_again(
    server: PostgresProcess,
) -> None:
    async with postgres_brokers(Config(url=server.url, timeout=TIMEOUT)) as open_one:
        broker = open_one()
        async with consuming(broker) as consumer:
            await broker.put(messages("a", "b"))
            [held] = await consumer.take(1, 5)
            server.kill()
            for call in (
                lambda: broker.put(messages("c")),
                lambda: consumer.take(1, 5),
                lambda: consumer.settle([Outcome(held)]),
                lambda: asyncio.to_thread(consumer.renew, [held]),
                lambda: broker.state("default", "a"),
                lambda: broker.lead("name", "holder", 10),
            ):
                started = time.monotonic()
                with pytest.raises(BrokerUnavailable):
                    await call()
                assert time.monotonic() - started < TIMEOUT + 1
            server.start()
            assert await eventually(lambda: asyncio.to_thread(consumer.renew, [held])) == []
            assert await eventually(lambda: consumer.settle([Outcome(held)])) == []
            await broker.put(messages("c"))
            taken = await consumer.take(10, 5)
            assert [delivery.id for delivery in taken] == ["b", "c"]


async def test_a_take_that_waits_is_told_of_messages_after_a_restart(
    server: PostgresProcess,
) -> None:
    async with (
        postgres_brokers(Config(url=server.url, timeout=TIMEOUT)) as open_one,
        consuming(open_one()) as consumer,
    ):
        waiting = asyncio.create_task(consumer.take(1, 60))
        await asyncio.wait([waiting], timeout=0.2)
        server.kill()
        with pytest.raises(BrokerUnavailable):
            await waiting
        server.start()
        other = open_one()
        await eventually(lambda: other.put(messages("a")))
        [delivery] = await eventually(lambda: consumer.take(1, 10))
        assert delivery.id == "a"


async def test_connections_that_an_administrator_ends_are_replaced(
    broker: PostgresBroker, url: str
) -> None:
    async with consuming(broker) as consumer:
        for number in range(3):
            await broker.put(messages(f"a{number}"))
            [held] = await consumer.take(1, 5)
            await asyncio.to_thread(consumer.renew, [held])
            end_connections(url)
            assert await asyncio.to_thread(consumer.renew, [held]) == []
            end_connections(url)
            assert await consumer.settle([Outcome(held)]) == []
            end_connections(url)
            assert await broker.state("default", f"a{number}") is None
            end_connections(url)


def end_connections(url: str) -> None:
    """End all but one's own, and wait until they have."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "FROM pg_stat_activity WHERE datname = current_database()"
        others += " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


async def test_a_take_that_waits_goes_on_after_its_connections_were_ended(
    broker: PostgresBroker, open_postgres: OpenPostgres, url: str
) -> None:
    async with consuming(broker) as consumer:
        waiting = asyncio.create_task(consumer.take(1, 20))
        await asyncio.wait([waiting], timeout=0.2)
        end_connections(url)
        await open_postgres().put(messages("a"))
        [delivery] = await asyncio.wait_for(waiting, 5)
        await consumer.settle([Outcome(delivery)])


async def test_a_server_that_has_become_a_standby_is_unavailable_until_it_is_not(
    broker: PostgresBroker, url: str
) -> None:
    async with consuming(broker) as consumer:
        await broker.put(messages("a"))
        [held] = await consumer.take(1, 5)
        alter(url, "SET default_transaction_read_only = on")
        end_connections(url)
        with pytest.raises(BrokerUnavailable, match="no writes"):
            await broker.put(messages("b"))
        with pytest.raises(BrokerUnavailable):
            await consumer.settle([Outcome(held)])
        with pytest.raises(BrokerUnavailable):
            await asyncio.to_thread(consumer.renew, [held])
        assert await broker.state("default", "a") == "running"
        alter(url, "RESET default_transaction_read_only")
        # Nobody ends a connection this time: those to a server that takes no writes are dropped.
        await broker.put(messages("b"))
        assert await consumer.settle([Outcome(held)]) == []
        [delivery] = await consumer.take(1, 5)
        await consumer.settle([Outcome(delivery)])


def alter(url: str, what: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} {what}")


@asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[None]:
    """While nobody can use a table."""
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"LOCK TABLE asynctasq.{table} IN ACCESS EXCLUSIVE MODE")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def test_every_call_ends_in_bounded_time_when_the_server_does_not_answer(
    broker: PostgresBroker, url: str
) -> None:
    async with consuming(broker) as consumer:
        await broker.put(messages("a"))
        [held] = await consumer.take(1, 5)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: broker.put(messages("b")),
            lambda: consumer.take(1, 5),
            lambda: consumer.settle([Outcome(held)]),
            lambda: asyncio.to_thread(consumer.renew, [held]),
            lambda: broker.stats(),
        ]
        async with locked(url, "running"), locked(url, "pending"), locked(url, "worker"):
            started = time.monotonic()
            for call in calls:
                with pytest.raises(BrokerUnavailable, match=r"in time|statement_timeout"):
                    await call()
            assert time.monotonic() - started < len(calls) * (TIMEOUT + 1)
        assert await consumer.settle([Outcome(held)]) == []


@pytest.mark.parametrize("turns", range(2, 6))
async def test_an_answer_that_comes_together_with_the_end_of_its_time_is_unavailability(
    url: str, turns: int
) -> None:
    async with postgres_brokers(Config(url=url, timeout=0.3)) as open_one:
        broker = open_one()
        await eventually(broker.stats)
        calling = asyncio.create_task(broker.cancel("default", "none", None, 0))
        for _ in range(turns):  # until its statement is on its way to be prepared
            await asyncio.sleep(0)
        time.sleep(0.35)  # a machine that is too busy for this process
        with suppress(BrokerUnavailable):
            await calling
        assert not await eventually(lambda: broker.cancel("default", "none", None, 0))


async def test_a_pool_that_is_exhausted_is_reported_and_recovers(url: str) -> None:
    config = Config(url=url, timeout=TIMEOUT, pool_size=1)
    async with postgres_brokers(config) as open_one:
        broker = open_one()
        await broker.put(messages("pool"))
        async with locked(url, "queue"):
            both = await asyncio.gather(broker.stats(), broker.stats(), return_exceptions=True)
        assert [type(error) for error in both] == [BrokerUnavailable] * 2
        assert any("pool_size" in str(error) for error in both)
        assert await broker.state("default", "pool") == "waiting"
        assert await broker.cancel("default", "pool", None, 0)


async def test_a_full_disk_is_unavailability_and_loses_nothing(
    small_disk: Path, server: PostgresProcess
) -> None:
    tables, filler = small_disk / "tables", small_disk / "filler"
    tables.mkdir()
    if os.geteuid() == 0:
        shutil.chown(tables, "nobody")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{tables}'")
        connection.execute("ALTER DATABASE postgres SET default_tablespace = small")
    async with postgres_brokers(Config(url=server.url, timeout=TIMEOUT)) as open_one:
        broker, put = open_one(), ["before"]

        async def put_more() -> None:
            for n in range(1000):
                await broker.put([Outgoing("default", str(n), os.urandom(4000))])
                put.append(str(n))

        await broker.create_tables()
        await broker.put(messages("before"))
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
        with pytest.raises(BrokerUnavailable, match="its disk is full"):
            await put_more()
        filler.unlink()
        await broker.put(messages("after"))
        async with consuming(broker) as consumer:
            taken = await consumer.take(2000, 5)
            assert [delivery.id for delivery in taken] == [*put, "after"]
            assert await consumer.settle([Outcome(delivery) for delivery in taken]) == []


async def test_too_many_connections_are_unavailability(server: PostgresProcess) -> None:
    async with postgres_brokers(Config(url=server.url, timeout=TIMEOUT)) as open_one:
        await open_one().put(messages("a"))
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 0")
            connection.execute("GRANT ALL ON SCHEMA asynctasq TO few")
    limited = Config(url=server.url.replace("postgres@", "few@"), timeout=TIMEOUT)
    async with postgres_brokers(limited) as open_one:
        with pytest.raises(BrokerUnavailable, match="too many connections"):
            await open_one().put(messages("b"))


async def test_a_delivery_on_its_way_to_a_worker_that_dies_does_not_count_if_there_was_one_before(
    broker: PostgresBroker, open_postgres: OpenPostgres
) -> None:
    await broker.put(messages("a"))
    async with consuming(broker) as first:
        [delivery] = await first.take(1, 5)
        assert await broker.release_worker(first._options.worker.id, ["default"]) == 1
    async with consuming(open_postgres()) as dying:
        number = await dying._number()
        # As its statement does; nobody reads the answer.
        [row] = await dying._server.ask(dying._take, number, ["default"], 1, 30.0, [], [])
        assert (row["id"], row["deliveries"]) == ("a", 2)
        assert await broker.release_worker(dying._options.worker.id, ["default"]) == 1
    async with consuming(open_postgres()) as third:
        [delivery] = await third.take(1, 5)
        assert delivery.deliveries == 2
        assert await broker.release_worker(third._options.worker.id, ["default"]) == 1
    async with consuming(broker) as last:
        [delivery] = await last.take(1, 5)
        assert delivery.deliveries == 3
        await last.settle([Outcome(delivery)])


@asynccontextmanager
async def holding(
    url: str, lease_seconds: float
) -> AsyncIterator[tuple[PostgresBroker, PostgresConsumer, Delivery]]:
    """The only consumer in a schema, and what it has taken; it waits for locks."""
    config = Config(url=url, schema="counted", timeout=30)
    async with postgres_brokers(config) as open_one:
        broker = open_one()
        async with consuming(broker, lease_seconds=lease_seconds) as consumer:
            await broker.put(messages("a"))
            [delivery] = await consumer.take(1, 5)
            yield broker, consumer, delivery


def count(connection: psycopg.Connection[Any], delivery: Delivery) -> None:
    """Let a delivery count, as its worker does once it is there, if there was one before."""
    tag = delivery.tag
    arguments = (tag.worker, [tag.message], [tag.lease])
    connection.execute("SELECT counted.confirm(%s, %s, %s)", arguments)


async def test_a_delivery_that_is_settled_while_it_is_counted_is_gone(url: str) -> None:
    async with holding(url, 30) as (broker, consumer, delivery):
        outcome = Outcome(delivery, result=b"kept", result_ttl=60)
        with psycopg.connect(url) as connection:
            count(connection, delivery)
            settling = asyncio.create_task(consumer.settle([outcome]))
            await asyncio.to_thread(wait_for_lock, url, "settle(")
        with pytest.raises(BrokerUnavailable, match="in the way"):
            await settling
        assert await consumer.settle([outcome]) == []
        assert await broker.result("default", "a", 0) == b"kept"
        assert await consumer.idle()


async def test_a_delivery_that_is_counted_while_its_lease_runs_out_is_given_back(url: str) -> None:
    async with holding(url, 0.1) as (broker, _, delivery):
        await asyncio.sleep(0.2)  # the subject: its lease is over
        with (
            psycopg.connect(url, autocommit=True) as holder,
            psycopg.connect(url, autocommit=True) as looking,
        ):
            # With one worker there, the second look at the clock is that of the statement proper.
            holder.execute(
                "CREATE SCHEMA slow; CREATE SEQUENCE slow.looks;"
                " CREATE FUNCTION slow.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$"
                " BEGIN IF nextval('slow.looks') = 2 THEN PERFORM pg_advisory_xact_lock(1); END IF;"
                " RETURN pg_catalog.clock_timestamp(); END $$; SELECT pg_advisory_lock(1)"
            )
            looking.execute("SET search_path = slow, pg_catalog")
            give_back = "SELECT counted.give_back_lapsed()"
            first = asyncio.create_task(asyncio.to_thread(looking.execute, give_back))
            await asyncio.to_thread(wait_for_lock, url, "give_back_lapsed(")
            count(holder, delivery)
            holder.execute("SELECT pg_advisory_unlock(1)")
            await first
            holder.execute("DROP SCHEMA slow CASCADE")
        [again] = await broker.consumer(options(name="other")).take(1, 5)
        assert (again.id, again.deliveries) == ("a", 3)


def wait_for_lock(url: str, query: str) -> None:
    """Wait until a query with this text waits for a lock."""
    sql = (
        "SELECT FROM pg_stat_activity WHERE position(%s in query) > 0 AND wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute(sql, (query,)).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)


async def test_a_statement_that_was_given_up_does_not_go_on_in_the_server(
    broker: PostgresBroker, url: str
) -> None:
    await broker.put(messages("given up"))
    async with locked(url, "pending"):
        with pytest.raises(BrokerUnavailable):
            await broker.cancel("default", "given up", None, 0)
        with psycopg.connect(url, autocommit=True) as connection:
            deadline = time.monotonic() + 10
            while connection.execute(
                "SELECT FROM pg_stat_activity WHERE query LIKE '%cancel(%' AND state = 'active'"
                " AND datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    assert await broker.cancel("default", "given up", None, 0)


async def test_a_statement_that_the_server_ends_runs_again(url: str) -> None:
    waiting = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%put(%'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with postgres_brokers(Config(url=url, timeout=30)) as open_one:
        broker = open_one()
        await broker.put(messages("first"))
        async with locked(url, "message"):
            putting = asyncio.create_task(broker.put(messages("second")))
            with psycopg.connect(url, autocommit=True) as connection:
                # As it does by itself where `statement_timeout` is over.
                for _ in range(2):
                    while not connection.execute(waiting).fetchall():
                        await asyncio.sleep(0.01)
            assert not putting.done()
        await putting
        assert await broker.state("default", "second") == "waiting"
        await broker.purge("default")


async def test_a_cancelled_call_leaves_its_connection_usable(
    broker: PostgresBroker, url: str
) -> None:
    await broker.put(messages("x"))
    async with locked(url, "message"):
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(broker.state("default", "x"), 0.01)
    assert await broker.state("default", "x") == "waiting"
    assert await broker.cancel("default", "x", None, 0)


async def test_what_a_take_leased_whose_answer_was_lost_comes_back_while_its_worker_lives(
    broker: PostgresBroker, url: str
) -> None:
    lease_seconds = 1.0
    async with consuming(broker, lease_seconds=lease_seconds, name="lost") as consumer:
        await broker.put(messages("lost"))
        with psycopg.connect(url, autocommit=True) as connection:
            # As the server has it when the connection breaks before the answer.
            connection.execute(
                "SELECT t.* FROM asynctasq.worker w,"
                " asynctasq.take(w.number, '{default}', 10, 1.0, '{}', '{}') t"
                " WHERE w.id LIKE 'lost-%'"
            )
        assert await broker.state("default", "lost") == "running"
        deadline = time.monotonic() + 10
        while await broker.state("default", "lost") == "running":
            assert time.monotonic() < deadline
            assert await asyncio.to_thread(consumer.renew, []) == []
            await asyncio.sleep(0.1)
        [delivery] = await consumer.take(1, 5)
        assert (delivery.id, delivery.deliveries) == ("lost", 2)
        await consumer.settle([Outcome(delivery)])


async def test_a_wrong_password_is_an_error_that_shows_none(server: PostgresProcess) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE strict LOGIN PASSWORD 'right'")
        connection.execute("ALTER SYSTEM SET log_statement = 'none'")
    hba = server.folder / "data" / "pg_hba.conf"
    hba.write_text("host all strict all scram-sha-256\n" + hba.read_text())
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")
    url = server.url.replace("postgres@", "strict:wr0ng@")
    async with postgres_brokers(Config(url=url, timeout=TIMEOUT)) as open_one:
        broker = open_one()
        with pytest.raises(BrokerError, match="refuses the login") as caught:
            await broker.put(messages("a"))
        assert not isinstance(caught.value, BrokerUnavailable)
        assert "wr0ng" not in f"{caught.value} {broker.describe()} {Config(url=url)}"
        [finding, *_] = await broker.check()
        assert finding.level == "error"
