"""What the Redis broker does when the server stops, dies, freezes, fills up or forgets."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from uuid import uuid4

import pytest
import pytest_asyncio
from asynctasq import RedisConfig
from asynctasq.brokers import (
    Action,
    Consumer,
    ConsumerOptions,
    Delivery,
    Outcome,
    Outgoing,
    WorkerInfo,
)
from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.errors import BrokerError, BrokerUnavailable

#: Any answer that takes longer counts as none.
TIMEOUT = 1.0
#: Time for a machine under load on top of a limit.
GRACE = 2.0


class Connect(Protocol):
    async def __call__(
        self, url: str, *, lease_seconds: float = 30.0, **options: Any
    ) -> tuple[RedisBroker, Consumer]: ...


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Gives a broker and a started consumer of the queue `q`, closed when the test ends."""
    opened: list[tuple[RedisBroker, Consumer]] = []

    async def open_both(
        url: str, *, lease_seconds: float = 30.0, **options: Any
    ) -> tuple[RedisBroker, Consumer]:
        options = {"timeout": TIMEOUT, "connect_timeout": TIMEOUT, **options}
        broker = RedisBroker(RedisConfig(url=url, **options))
        info = WorkerInfo(f"w-{uuid4().hex[:8]}", "host", 1, ("q",), 10, time.time())
        consumer = broker.consumer(ConsumerOptions(info, ("q",), lease_seconds))
        opened.append((broker, consumer))
        await consumer.start()
        return broker, consumer

    yield open_both
    for broker, consumer in opened:
        await consumer.stop()
        await broker.close()


def message(message_id: str, **fields: Any) -> Outgoing:
    return Outgoing("q", message_id, b"body of " + message_id.encode(), **fields)


async def take_in_the_end(consumer: Consumer, within: float = 10.0) -> list[Delivery]:
    """Take as a worker does: again after the server was away."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if taken := await consumer.take(10, 0.5):
                return taken
        except BrokerUnavailable:
            await asyncio.sleep(0.05)
    return []


async def bounded(call: Awaitable[object], seconds: float = TIMEOUT + GRACE) -> float:
    """How long the call took to raise `BrokerUnavailable`."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        with pytest.raises(BrokerUnavailable):
            await call
    return time.monotonic() - started


@pytest.mark.parametrize("end", ["shutdown", "kill"])
async def test_what_redis_kept_is_there_after_its_restart(
    start_redis: Any, connect: Connect, end: str
) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    broker, consumer = await connect(server.url)
    now = time.time()
    await broker.put([message("running"), message("waiting"), message("later", due=now + 3600)])
    [running] = await consumer.take(1, 1)
    blocked = asyncio.ensure_future(consumer.take(10, 0))
    await blocked
    await consumer.settle([Outcome(d, Action.RELEASE) for d in blocked.result()])
    if end == "kill":
        server.kill()
    else:
        server.send(signal.SIGTERM)
        server.process.wait(10)
    await bounded(consumer.take(1, 0.2))
    await bounded(broker.put([message("lost")]))
    server.start()
    [waiting] = await take_in_the_end(consumer)
    assert (running.id, waiting.id, waiting.deliveries) == ("running", "waiting", 1)
    assert await consumer.settle([Outcome(running), Outcome(waiting)]) == []
    assert await broker.state("q", "later") == "delayed"
    assert await asyncio.to_thread(consumer.renew, []) == []


async def test_a_restart_during_a_blocked_take_delivers_what_comes_then(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis("--appendonly", "yes")
    broker, consumer = await connect(server.url)
    taking = asyncio.create_task(take_in_the_end(consumer))
    await asyncio.sleep(0)
    server.kill()
    server.start()
    await broker.put([message("a")])
    [delivery] = await taking
    assert delivery.id == "a"


async def test_a_put_waits_for_a_server_that_comes_back_in_time(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis()
    broker, _ = await connect(server.url, timeout=8.0)
    server.kill()
    putting = asyncio.create_task(broker.put([message("a")]))
    done, _ = await asyncio.wait([putting], timeout=0.3)
    assert not done
    server.start()
    await putting
    assert await broker.state("q", "a") == "waiting"


async def test_a_server_that_accepts_and_never_answers_holds_nobody_up(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis()
    broker, consumer = await connect(server.url)
    await broker.put([message("a")])
    [held] = await consumer.take(1, 1)
    server.send(signal.SIGSTOP)
    try:
        await bounded(broker.put([message("b")]))
        await bounded(consumer.take(1, 0.5), TIMEOUT + 0.5 + GRACE)
        await bounded(consumer.settle([Outcome(held)]))
        await bounded(asyncio.to_thread(consumer.renew, [held]))
        await bounded(broker.result("q", "a", 0.1), TIMEOUT + GRACE)
        other, another = await connect_to_stopped(server.url)
        await bounded(another.start())
        async with asyncio.timeout(2 * TIMEOUT + GRACE):
            await another.stop()
        await other.close()
    finally:
        server.send(signal.SIGCONT)
    assert await take_in_the_end(consumer)


async def connect_to_stopped(url: str) -> tuple[RedisBroker, Consumer]:
    broker = RedisBroker(RedisConfig(url=url, timeout=TIMEOUT, connect_timeout=TIMEOUT))
    info = WorkerInfo("x", "host", 1, ("q",), 10, time.time())
    return broker, broker.consumer(ConsumerOptions(info, ("q",)))


async def test_a_stalled_connection_is_given_up_and_made_anew(
    start_redis: Any, start_proxy: Any, connect: Connect
) -> None:
    server = start_redis()
    proxy = await start_proxy(server.port)
    broker, consumer = await connect(f"redis://127.0.0.1:{proxy.port}/0")
    direct, _ = await connect(server.url)
    proxy.stalled = True
    await bounded(broker.put([message("a")]))
    await bounded(consumer.take(1, 0.2), TIMEOUT + 0.2 + GRACE)
    proxy.stalled = False
    await direct.put([message("b")])
    seen: set[str] = set()
    while "b" not in seen:
        seen |= {delivery.id for delivery in await take_in_the_end(consumer)}
    assert seen <= {"a", "b"}


async def test_a_full_server_refuses_messages_but_lets_workers_empty_it(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis("--maxmemory-policy", "noeviction")
    broker, consumer = await connect(server.url)
    await broker.put([message(str(i)) for i in range(5)])
    await broker.put([message("due", due=time.time() + 0.3)])
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
        with pytest.raises(BrokerUnavailable, match="memory"):
            await broker.put([message("refused")])
        taken = await consumer.take(5, 1)
        outcomes = [
            Outcome(taken[0], result=b"kept", result_ttl=60),
            Outcome(taken[1], Action.RETRY, b"again", delay=0.05),
            Outcome(taken[2], Action.RETRY, b"at once"),
            Outcome(taken[3], Action.DEAD, info=b"why"),
            Outcome(taken[4], Action.RELEASE),
        ]
        assert await consumer.settle(outcomes) == []
        seen: set[str] = set()
        while len(seen) < 4:
            seen |= {delivery.id for delivery in await take_in_the_end(consumer)}
        assert seen == {"due", taken[1].id, taken[2].id, taken[4].id}
        assert await broker.retry_dead("q", [(taken[3].id, b"body")]) == 1
        client.config_set("maxmemory", "0")
    await broker.put([message("accepted")])


async def test_a_replica_refuses_and_is_used_again_once_it_is_the_master(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis()
    broker, consumer = await connect(server.url)
    await broker.put([message("a")])
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(BrokerUnavailable, match=r"READONLY|MASTERDOWN"):
            await broker.put([message("b")])
        await bounded(consumer.take(1, 0.2))
        client.replicaof("NO", "ONE")
    [delivery] = await take_in_the_end(consumer)
    assert delivery.id == "a"


async def test_a_server_that_loads_its_data_is_waited_for(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis(
        "--appendonly", "yes", "--aof-use-rdb-preamble", "no",
        "--key-load-delay", "30000", "--loading-process-events-interval-bytes", "1024",
    )  # fmt: skip
    broker, consumer = await connect(server.url, timeout=15.0)
    await broker.put([message(str(i)) for i in range(5)])
    with server.client() as client:
        for i in range(60):
            client.set(f"ballast-{i}", "x" * 100)
    server.kill()
    server.start(wait=False)
    await broker.put([message("new")])
    seen: set[str] = set()
    while len(seen) < 6:
        seen |= {delivery.id for delivery in await take_in_the_end(consumer)}


async def test_a_flushed_server_is_set_up_again(start_redis: Any, connect: Connect) -> None:
    server = start_redis()
    broker, consumer = await connect(server.url)
    assert await consumer.take(1, 0) == []
    taking = asyncio.create_task(consumer.take(1, 5))
    with server.client() as client:
        while not any(c["cmd"] == "xreadgroup" for c in client.client_list()):
            await asyncio.sleep(0.01)
        client.flushall()
        client.script_flush()
    await broker.put([message("a")])
    [first] = await taking
    with server.client() as client:
        client.flushall()
    assert await consumer.settle([Outcome(first)]) != []
    assert await asyncio.to_thread(consumer.renew, [first]) == [first]
    await broker.put([message("b")])
    [second] = await take_in_the_end(consumer)
    assert (first.id, second.id) == ("a", "b")
    assert [stats.name for stats in await broker.stats()] == ["q"]


async def test_dropped_connections_lose_nothing(start_redis: Any, connect: Connect) -> None:
    server = start_redis()
    broker, consumer = await connect(server.url)
    taking = asyncio.create_task(take_in_the_end(consumer))
    await asyncio.sleep(0)
    with server.client() as client:
        for _ in range(5):
            client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.02)
    await broker.put([message("a")])
    [delivery] = await taking
    assert delivery.id == "a"
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert await asyncio.to_thread(consumer.renew, [delivery]) == []
    assert await consumer.settle([Outcome(delivery)]) == []


async def test_a_result_is_woken_after_the_server_was_away(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    broker, consumer = await connect(server.url)
    await broker.put([message("a")])
    [delivery] = await consumer.take(1, 1)
    waiting = asyncio.create_task(broker.result("q", "a", 20))
    with server.client() as client:
        while not any(c["cmd"] == "subscribe" for c in client.client_list()):
            await asyncio.sleep(0.01)
    server.kill()
    server.start()
    outcome = Outcome(delivery, result=b"done", result_ttl=60)
    while True:
        try:
            assert await consumer.settle([outcome]) == []
            break
        except BrokerUnavailable:
            await asyncio.sleep(0.05)
    assert await waiting == b"done"


async def test_a_server_without_free_connections_is_unavailable(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis()
    broker, _ = await connect(server.url)
    await broker.close()
    with server.client() as client:
        client.config_set("maxclients", 1)
        await bounded(broker.put([message("a")]))
        client.config_set("maxclients", 100)
    await broker.put([message("a")])


async def test_entries_that_others_wrote_are_delivered_to_be_dead_lettered(
    start_redis: Any, connect: Connect
) -> None:
    server = start_redis()
    broker, consumer = await connect(server.url)
    with server.client() as client:
        client.xadd("asynctasq:{q}:stream", {"foreign": "entry"})
    [delivery] = await consumer.take(10, 1)
    assert delivery.body == b""
    assert await consumer.settle([Outcome(delivery, Action.DEAD, info=b"not a message")]) == []
    [letter] = await broker.dead_letters("q")
    assert letter.info == b"not a message"


async def test_a_wrong_password_is_told_and_not_tried_again(start_redis: Any) -> None:
    server = start_redis("--requirepass", "correct", password="correct")
    broker = RedisBroker(RedisConfig(url=server.url, password="wr0ng-secret", timeout=5.0))
    started = time.monotonic()
    with pytest.raises(BrokerError, match="refuses the login") as refused:
        await broker.put([message("a")])
    assert time.monotonic() - started < 2
    assert not isinstance(refused.value, BrokerUnavailable)
    assert "wr0ng-secret" not in str(refused.value)
    await broker.close()


async def test_the_fewest_commands_settle_many_outcomes(start_redis: Any, connect: Connect) -> None:
    server = start_redis()
    broker, consumer = await connect(server.url)

    async def commands(call: Callable[[], Awaitable[Any]]) -> tuple[int, Any]:
        with server.client() as client:
            before = client.info("stats")["total_commands_processed"]
            answer = await call()
            after = client.info("stats")["total_commands_processed"]
        return after - before - 1, answer

    await broker.put([message(str(i)) for i in range(200)])
    # The server knows no script before its first use.
    await consumer.settle([Outcome(d) for d in await consumer.take(1, 1)])
    _, taken = await commands(lambda: consumer.take(100, 1))
    put, _ = await commands(lambda: broker.put([message(f"m{i}") for i in range(100)]))
    assert put <= 104
    took, more = await commands(lambda: consumer.take(99, 1))
    assert took <= 2
    settled, lost = await commands(lambda: consumer.settle([Outcome(d) for d in taken]))
    assert (settled <= 5, lost) == (True, [])
    assert len(more) == 99
