"""What a Redis server does not take, however often it is sent, ends as a dead letter."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asynctasq
import asynctasq.app
import pytest
from asynctasq import BrokerError, BrokerUnavailable, RedisConfig, Worker, deadletters, task
from asynctasq.brokers import (
    Action,
    Consumer,
    ConsumerOptions,
    Delivery,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    RateKey,
    UniqueKey,
    WorkerInfo,
)
from asynctasq.brokers.redis.broker import RedisBroker

from ..redis_servers import RedisProcess
from .relays import relay

MEGABYTE = 1024 * 1024

#: Limits of a server, each with a result that is too large for it.
LIMITS = {
    "bulk": (("--proto-max-bulk-len", "1mb"), 2 * MEGABYTE),
    "bulk-reset": (("--proto-max-bulk-len", "1mb"), 20 * MEGABYTE),
    "buffer": (("--client-query-buffer-limit", "1mb"), 5 * MEGABYTE),
    "clients": (("--maxmemory-clients", "3mb"), 8 * MEGABYTE),
}


@task(result_ttl=60)
async def give(size: int) -> bytes:
    return os.urandom(size)


@pytest.fixture(params=LIMITS)
def limited(request: pytest.FixtureRequest, start_redis: Any) -> tuple[RedisProcess, int]:
    """A server with a limit, and the size of a result that is beyond it."""
    options, size = LIMITS[request.param]
    return start_redis(*options), size


async def test_a_result_that_the_server_refuses_is_a_dead_letter_and_holds_up_nobody(
    limited: tuple[RedisProcess, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, size = limited
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(
        driver="redis", redis={"url": server.url, "timeout": 5.0}, max_payload_bytes=2 * size
    )
    handles = await asynctasq.dispatch_many([give(10), give(size), give(10)])
    async with asyncio.timeout(60):
        await Worker(burst=True).run()
    [letter] = await deadletters.list_dead()
    assert (letter.id, letter.reason) == (handles[1].id, "the result cannot be kept")
    assert (letter.task, letter.attempts) == (give.name, 1)
    assert [len(await handle.result()) for handle in (handles[0], handles[2])] == [10, 10]
    with pytest.raises(BrokerError, match="the result cannot be kept"):
        await handles[1].result(timeout=5)
    assert await deadletters.retry() == 1
    await asynctasq.app.current().open_broker().close()


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
async def test_a_result_beyond_the_servers_memory_holds_up_nobody(
    start_redis: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    server = start_redis("--maxmemory", "6mb", "--maxmemory-policy", "noeviction", kind=kind)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="redis", redis=server.url)
    handles = await asynctasq.dispatch_many([give(10), give(8 * MEGABYTE), give(10)])
    async with asyncio.timeout(60):
        await Worker(burst=True).run()
    dead = {letter.id: letter.reason for letter in await deadletters.list_dead()}
    assert dead in ({}, {handles[1].id: "the result cannot be kept"})
    assert [await handle.status() for handle in (handles[0], handles[2])] == ["done", "done"]
    await asynctasq.app.current().open_broker().close()


@pytest.mark.parametrize("kind", ["swallows", "resets"])
async def test_an_outage_refuses_no_large_result(start_redis: Any, kind: str) -> None:
    with relay(start_redis().port) as between:
        broker = RedisBroker(RedisConfig(url=f"redis://127.0.0.1:{between.port}", timeout=0.5))
        info = WorkerInfo("w", "host", 1, ("q",), 10, time.time())
        consumer = broker.consumer(ConsumerOptions(info, ("q",)))
        await consumer.start()
        await broker.put([Outgoing("q", name, b"body") for name in ("large", "small")])
        large, small = await consumer.take(2, 1)
        outcomes = [Outcome(large, result=bytes(3 * MEGABYTE), result_ttl=60), Outcome(small)]
        between.is_stalled, between.is_down = kind == "swallows", kind == "resets"
        between.reset_all()
        for _ in range(5):
            with pytest.raises(BrokerUnavailable):
                await consumer.settle(outcomes)
        between.is_stalled = between.is_down = False
        assert await consumer.settle(outcomes) == []
        assert await broker.result("q", "large", 1) == outcomes[0].result
        await consumer.stop()
        await broker.close()


async def test_no_script_moves_much_more_than_a_megabyte(start_redis: Any) -> None:
    server = start_redis()
    broker = RedisBroker(RedisConfig(url=server.url))
    count, body = 12, bytes(400_000)

    async def started(name: str, lease_seconds: float = 30.0) -> Consumer:
        info = WorkerInfo(name, "host", 1, ("q", "r"), 10, time.time())
        consumer = broker.consumer(ConsumerOptions(info, ("q", "r"), lease_seconds))
        await consumer.start()
        return consumer

    async def take_all(consumer: Consumer) -> list[Delivery]:
        taken: list[Delivery] = []
        async with asyncio.timeout(20):
            while len(taken) < count:
                some = await consumer.take(count, 1)
                assert sum(len(delivery.body) for delivery in some) <= MEGABYTE + len(body)
                taken += some
        return taken

    first, second = await started("first", lease_seconds=0.5), await started("second")
    due = time.time() + 0.2
    await broker.put([Outgoing("q", f"due-{n}", body, due) for n in range(count)])
    [*_] = await take_all(first)
    expired = await take_all(second)
    await second.settle([Outcome(delivery, Action.RELEASE) for delivery in expired])
    released = await take_all(second)
    assert [d.id for d in released] == [d.id for d in expired]
    await second.settle([Outcome(delivery, Action.RETRY, body=body) for delivery in released])
    waiting = await take_all(second)
    await second.settle([Outcome(delivery, Action.DEAD) for delivery in waiting])
    letters = await broker.dead_letters("q", limit=count)
    assert await broker.retry_dead("q", [(letter.id, letter.body) for letter in letters]) == count
    assert await broker.purge("q") == count
    with server.client() as client:
        stats: Any = client.info("commandstats")
    # At most three of these fit into one call of a script.
    assert stats["cmdstat_evalsha"]["calls"] + stats["cmdstat_eval"]["calls"] >= 8 * count / 3
    for consumer in (first, second):
        await consumer.stop()
    await broker.close()


LIMITED = {"policy": Policy(limit=LimitKey("key", 100))}


@pytest.mark.parametrize("asking", [{}, LIMITED], ids=["nothing", "a limit"])
async def test_what_the_server_holds_itself_counts_too(
    start_redis: Any, asking: dict[str, Any]
) -> None:
    """Large messages in a page for people, and outcomes for which nothing large is sent."""
    server, count, body = start_redis(), 12, bytes(400_000)
    broker = RedisBroker(RedisConfig(url=server.url))
    info = WorkerInfo("w", "host", 1, ("q",), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("q",)))
    await consumer.start()
    await broker.put([Outgoing("q", f"{n}", body, **asking) for n in range(count)])
    page = await broker.held("q", "waiting", limit=100)
    assert 1 < len(page.messages) <= 3
    with server.client() as client:
        for action in (Action.POSTPONE, Action.RETRY, Action.RELEASE):
            taken: list[Delivery] = []
            async with asyncio.timeout(20):
                while len(taken) < count:
                    taken += await consumer.take(count, 1)
            before = calls_of_scripts(client)
            await consumer.settle([Outcome(delivery, action) for delivery in taken])
            moves = action is not Action.RELEASE or bool(asking)  # or only the lease ends
            assert calls_of_scripts(client) - before >= (count / 3 if moves else 1)
    await consumer.stop()
    await broker.close()


def calls_of_scripts(client: Any) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


async def test_thousands_of_values_and_keys_are_looked_at_in_parts(start_redis: Any) -> None:
    server = start_redis()
    broker = RedisBroker(RedisConfig(url=server.url))
    values = {f"{n}": b"%d" % n for n in range(3000)}
    with server.client() as client:
        for name, value in values.items():
            client.hset("asynctasq:{q}:values:kind", name, bytes(8) + value)
        before = calls_of_scripts(client)
        assert dict(await broker.values("q", "kind")) == values
        assert calls_of_scripts(client) - before >= 3
    policies = [Policy(limit=LimitKey(f"key-{n}", 1)) for n in range(1500)]
    await broker.put([Outgoing("q", f"{n}", b"", policy=p) for n, p in enumerate(policies)])
    with commands_of_scripts(server) as counts:
        assert len(await broker.keys_in_use("q", limit=1500)) == 500
    assert max(counts) < 3000
    await broker.close()


async def fill_with_dead(broker: RedisBroker, queues: list[str], count: int) -> None:
    """So many dead letters in each queue, named by queue and number."""
    info = WorkerInfo("w", "host", 1, tuple(queues), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, tuple(queues)))
    await consumer.start()
    await broker.put([Outgoing(q, f"{q}-{n}", b"body") for q in queues for n in range(count)])
    left = count * len(queues)
    async with asyncio.timeout(60):
        while left:
            taken = await consumer.take(500, 1)
            await consumer.settle([Outcome(d, Action.DEAD, info=b"why") for d in taken])
            left -= len(taken)
    await consumer.stop()


async def test_many_ids_over_many_queues_are_retried_in_few_calls(
    start_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis()
    queues = [f"q{n}" for n in range(10)]
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="redis", redis=server.url)
    broker = asynctasq.app.current().open_broker()
    assert isinstance(broker, RedisBroker)
    await fill_with_dead(broker, queues, 60)
    ids = [f"{queue}-{n}" for queue in queues for n in range(50)]
    with server.client() as client:
        client.config_resetstat()
        assert await deadletters.retry(ids=ids) == 500
        stats: Any = client.info("commandstats")
    calls = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
    # Counting, finding and moving in each queue; a script that is not known yet is sent twice.
    assert calls <= 3 * len(queues) + 15
    assert "cmdstat_hget" not in stats
    assert [s.dead for s in await broker.stats()] == [10] * 10
    await broker.close()


def test_tens_of_thousands_are_listed_as_they_come(start_redis: Any) -> None:
    server, count = start_redis(), 20_000

    async def fill() -> None:
        broker = RedisBroker(RedisConfig(url=server.url))
        await fill_with_dead(broker, ["q"], count)
        await broker.close()

    asyncio.run(fill())
    environment = {**os.environ, "ASYNCTASQ_REDIS_URL": server.url, "ASYNCTASQ_PLUGINS": ""}
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "asynctasq", "dead", "list", "--limit", "50000", *options]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as listing:
            assert listing.stdout is not None
            first = listing.stdout.readline()
            assert listing.poll() is None  # the first comes before the last is read
            listed = first + listing.stdout.read()
            assert listing.wait(60) == 0
        assert len(json.loads(listed) if options else listed.splitlines()) == count


@contextmanager
def commands_of_scripts(server: RedisProcess) -> Iterator[list[int]]:
    """How many commands each script that the server runs has called, as the server tells it."""
    counts = [0]

    def listen() -> None:
        with server.client() as client, client.monitor() as monitor:
            listening.set()
            for told in monitor.listen():
                if told["command"] == "PING end":
                    return
                if told["client_type"] == "lua":
                    counts[-1] += 1
                elif counts[-1]:
                    counts.append(0)

    listening = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    listening.wait(10)
    try:
        yield counts
    finally:
        with server.client() as client:
            client.execute_command("PING", "end")
        thread.join(30)


#: What messages ask for, by number.
ASKING: dict[str, Callable[[int], dict[str, Any]]] = {
    "nothing": lambda n: {},
    "limit": lambda n: {"policy": Policy(limit=LimitKey(f"key-{n % 20}", 50))},
    "rate": lambda n: {"policy": Policy(rate=RateKey(f"key-{n % 20}", 0.0001, 50))},
    "unique": lambda n: {"policy": Policy(unique=UniqueKey(f"key-{n}"))},
    "priority": lambda n: {"priority": n % 200 - 100},
}


@pytest.mark.timeout(240)  # what counts the commands takes longer than they do
@pytest.mark.parametrize("asking", ASKING)
async def test_no_script_takes_long_however_much_there_is_to_do(
    start_redis: Any, asking: str
) -> None:
    """By what it does: a command takes some microseconds."""
    server, count = start_redis(), 700
    broker = RedisBroker(RedisConfig(url=server.url, timeout=60))

    async def started(name: str, lease_seconds: float) -> Consumer:
        info = WorkerInfo(name, "host", 1, ("q",), 500, time.time())
        consumer = broker.consumer(ConsumerOptions(info, ("q",), lease_seconds))
        await consumer.start()
        return consumer

    async def settle_all(consumer: Consumer, action: Action, **changes: Any) -> None:
        settled: set[str] = set()
        async with asyncio.timeout(120):
            while len(settled) < count:
                taken = await consumer.take(500, 1)
                settled |= {delivery.id for delivery in taken}
                await consumer.settle([Outcome(d, action, **changes) for d in taken])

    def messages(due: float | None = None) -> list[Outgoing]:
        return [Outgoing("q", f"{n}", b"body", due, **ASKING[asking](n)) for n in range(count)]

    with commands_of_scripts(server) as counts:
        first, second = await started("first", 0.5), await started("second", 60)
        await broker.put(messages(due=time.time() + 1))
        held: list[Delivery] = []
        while len(held) < count // 2:
            held += await first.take(500, 1)
        # Together with those whose leases `first` lets run out.
        await settle_all(second, Action.POSTPONE, delay=0.5)
        await settle_all(second, Action.RETRY, body=b"again", delay=0.5)
        await settle_all(second, Action.DEAD, info=b"why")
        letters = await broker.dead_letters("q", limit=count)
        await broker.retry_dead("q", [(letter.id, letter.body) for letter in letters])
        assert await broker.purge("q") == count
        for consumer in (first, second):
            await consumer.stop()
        await broker.close()
    assert sum(counts) > 10 * count
    assert max(counts) < 3000
