"""What somebody who writes to the application's Redis can do to workers, and to those who look."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asynctasq
import asynctasq.app
import msgpack
import pytest
import redis
from asynctasq import BrokerError, Retry, Worker, deadletters, dispatch_many, task
from asynctasq.brokers import (
    Action,
    Consumer,
    ConsumerOptions,
    Delivery,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    WorkerInfo,
)
from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.cli import cli
from click.testing import CliRunner

ESCAPES = "\x1b[2J\x9b2J\u202e"
QUEUES = ("bad", "good")

ran: list[str] = []


@task(queue="good")
async def note(what: str) -> None:
    ran.append(what)


@task(queue="good", max_attempts=1)
async def fail() -> None:
    raise ValueError("as it should")


@pytest.fixture
def client(start_redis: Any, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """The attacker's connection; the application uses the same server."""
    server = start_redis()
    for name in [name for name in os.environ if name.startswith("ASYNCTASQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ASYNCTASQ_REDIS_URL", server.url)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="redis", redis={"url": server.url, "timeout": 2.0})
    ran.clear()
    client: redis.Redis = server.client(decode_responses=False)
    return client


@asynccontextmanager
async def working(**options: Any) -> AsyncIterator[Worker]:
    """A worker of both queues for as long as the block takes."""
    worker = Worker(queues=QUEUES, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
        assert not running.done()
    finally:
        worker.stop()
        worker.stop()
        async with asyncio.timeout(30):
            await running
        await asynctasq.app.current().open_broker().close()


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def key(name: str, queue: str = "bad") -> str:
    return f"asynctasq:{{{queue}}}:{name}"


async def runs_what_is_sent(seconds: float = 3) -> None:
    """A message of the good queue runs, and is settled."""
    sent = await note(what := uuid4().hex).dispatch()
    await until(lambda: what in ran, seconds)
    async with asyncio.timeout(seconds):
        while await sent.status() != "ended":
            await asyncio.sleep(0.01)


# --- keys of another type ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["stream", "ids", "delayed", "bodies"])
@pytest.mark.parametrize("is_running", [False, True], ids=["before", "while running"])
async def test_a_queue_whose_keys_are_overwritten_blocks_no_other(
    client: redis.Redis, name: str, is_running: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil() -> None:
        client.delete(key(name))
        client.set(key(name), "x")

    if not is_running:
        spoil()
    async with working():
        await runs_what_is_sent()
        if is_running:
            spoil()
        for _ in range(3):
            await runs_what_is_sent()
        await until(lambda: "another type" in caplog.text)
        client.delete(key(name))
        sent = note("mended").on_queue("bad")
        await sent.dispatch()
        await until(lambda: "mended" in ran)
    assert caplog.text.count("another type") == 1


async def test_delayed_messages_outlive_a_spoilt_stream(client: redis.Redis) -> None:
    client.set(key("stream"), "x")
    client.zadd(key("delayed"), {"later": 1.0})
    client.hset(key("bodies"), "later", "body")
    async with working():
        await runs_what_is_sent()
    assert client.hget(key("bodies"), "later") == b"body"


@pytest.mark.parametrize("name", ["stream", "ids", "dead", "letters"])
async def test_outcomes_of_a_spoilt_queue_hold_up_no_others(client: redis.Redis, name: str) -> None:
    release = asyncio.Event()

    @task(name=f"held-{name}", queue="bad", max_attempts=1)
    async def held() -> None:
        ran.append("held")
        await release.wait()
        raise ValueError

    async with working():
        await held().dispatch()
        await until(lambda: "held" in ran)
        client.delete(key(name))
        client.set(key(name), "x")
        release.set()
        for _ in range(3):
            await runs_what_is_sent()


@pytest.mark.parametrize("name", ["dead", "letters"])
async def test_what_cannot_be_buried_takes_nothing_with_it(client: redis.Redis, name: str) -> None:
    @task(name=f"mixed-{name}", queue="bad", max_attempts=2, retry_delay=3600)
    async def mixed(number: int) -> None:
        if number % 10:
            raise ValueError
        raise Retry("buried", delay=3600)

    dying = [mixed(n).max_attempts(1) for n in range(0, 40, 10)]
    surviving = [mixed(n) for n in range(40) if n % 10]
    client.set(key(name), "x")
    async with working():
        await dispatch_many([*dying, *surviving])
        await until(lambda: client.zcard(key("delayed")) == len(surviving))
        assert client.xlen(key("stream")) == len(dying)


@pytest.mark.parametrize("name", ["alive", "workers"])
async def test_a_spoilt_registry_keeps_no_worker_from_its_work(
    client: redis.Redis, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.delete(key(name, "registry"))
    client.set(key(name, "registry"), "x")
    async with working():
        await runs_what_is_sent()
    assert caplog.text.count("worker is not listed") == 1


async def test_a_spoilt_registry_lets_dispatches_through(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.delete(key("queues", "registry"))
    client.set(key("queues", "registry"), "x")
    await dispatch_many(note(str(n)) for n in range(3))
    await note("3").dispatch()
    assert client.xlen(key("stream", "good")) == 4
    assert caplog.text.count("queues are not listed") == 1


# --- entries, consumers and structures --------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"x": "y"},
        {"id": "a"},
        {"body": "b" * 500_000, "id": "a"},
        {"id": "b" * 500_000, "body": "x"},
        {"id": b"\xff\xfe", "body": "x"},
        {"id": ESCAPES, "body": "x"},
        {"id": "", "body": ""},
        {"id": "a", "body": "x", "more": "y"},
    ],
    ids=lambda f: repr(f)[:30],
)
async def test_an_entry_that_is_none_of_ours_is_one_dead_letter(
    client: redis.Redis, fields: dict[Any, Any]
) -> None:
    client.xadd(key("stream", "good"), fields)
    async with working():
        await runs_what_is_sent()
        await until(lambda: client.zcard(key("dead", "good")) == 1)
        await runs_what_is_sent()
        (letter,) = await deadletters.list_dead("good")
    assert letter.reason == "the message cannot be run"
    assert len(letter.id) <= 200
    assert client.xlen(key("stream", "good")) == 0


@pytest.mark.parametrize("lease", ["", "~", "~x", "~1", "~" + "9" * 30, "~-5", "~1e5"])
async def test_consumers_of_any_name_stop_no_sweep(client: redis.Redis, lease: str) -> None:
    stream = key("stream", "good")
    client.xgroup_create(stream, "workers", "0", mkstream=True)
    client.xadd(stream, {"id": "a", "body": "x"})
    consumer = b"\xff\x1b" + lease.encode()
    client.execute_command("XREADGROUP", "GROUP", "workers", consumer, "STREAMS", stream, ">")
    async with working():
        await runs_what_is_sent()
        await asynctasq.app.current().open_broker().workers()


async def test_delayed_structures_may_hold_anything(client: redis.Redis) -> None:
    far: dict[Any, float] = {
        "inf": float("inf"),
        "past": float("-inf"),
        b"\xff": 1.0,
        "a" * 100_000: 2.0,
    }
    client.zadd(key("delayed", "good"), far)
    client.hset(key("bodies", "good"), mapping={"past": b"\xc1", b"\xff": b""})
    client.hset(key("ids", "good"), mapping={"past": "0-1", "x": "nonsense", "y": "5-5"})
    async with working():
        await runs_what_is_sent()
        await until(lambda: client.zcard(key("dead", "good")) == 2)
        assert {letter.queue for letter in await deadletters.list_dead()} == {"good"}


# --- looking ----------------------------------------------------------------------------


def spoil_everything(client: redis.Redis) -> None:
    """Garbage in all that `status` and `dead` read."""
    registry = "asynctasq:{registry}:"
    client.sadd(registry + "queues", b"\xff\xfe", "a b", "{x}", ESCAPES, "", "wrong", "fine")
    workers = [
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b"null",
        b'{"queues": 5}',
        json.dumps(info(host=ESCAPES)).encode(),
        json.dumps(info(queues=[1])).encode(),
        json.dumps(info(pid="x")).encode(),
        json.dumps(info(started_at=float("nan"))).encode(),
        json.dumps(info(started_at=1e300)).encode(),
        json.dumps(info(host="a good host")).encode(),
    ]
    for i, text in enumerate(workers):
        client.hset(registry + "workers", str(i), text)
        client.zadd(registry + "alive", {str(i): 9e15})
    for name in ("stream", "delayed", "dead"):
        client.set(key(name, "wrong"), "x")
    for i, died_at in enumerate((1.5, float("inf"), float("-inf"), 1e300)):
        client.zadd(key("dead", "fine"), {f"{ESCAPES}{i}": died_at})
        client.hset(key("letters", "fine"), f"{ESCAPES}{i}", b"\xff" * i)
    client.zadd(key("dead", "fine"), {b"\xff": 2})
    client.hset(key("letters", "fine"), b"\xff", b"\x00\x00\x00\x01\x80body")


def info(**changes: Any) -> dict[str, Any]:
    fields = {"id": "w", "host": "h", "pid": 1, "queues": ["fine"], "concurrency": 1}
    return {**fields, "started_at": 1.0, "running": 0, **changes}


async def test_whatever_stands_in_redis_can_be_looked_at(client: redis.Redis) -> None:
    spoil_everything(client)
    outputs = []
    for command in (["status"], ["status", "--json"], ["dead", "list"], ["dead", "list", "--json"]):
        result = await asyncio.to_thread(CliRunner().invoke, cli, command)
        assert result.exit_code == 0, (result.output, result.exception)
        assert not set(ESCAPES) & set(result.output) & {"\x1b", "\x9b", "\u202e"}
        outputs.append(result.output)
    assert "a good host" in outputs[0]
    assert "fine" in outputs[0]
    assert len(json.loads(outputs[3])) == 5


# --- what messages ask for ---------------------------------------------------------------


@asynccontextmanager
async def consuming(queue: str) -> AsyncIterator[tuple[RedisBroker, Consumer]]:
    """The application's broker, and a consumer of a queue."""
    broker = asynctasq.app.current().open_broker()
    assert isinstance(broker, RedisBroker)
    info = WorkerInfo(uuid4().hex, "host", 1, (queue,), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, (queue,)))
    await consumer.start()
    yield broker, consumer
    await consumer.stop()
    await broker.close()


async def take_all(consumer: Consumer, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            taken += await consumer.take(count - len(taken), 1)
    return taken


def limited(name: str) -> Outgoing:
    return Outgoing("bad", name, b"body", policy=Policy(limit=LimitKey("key", 1)))


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        b"\xff",
        b"\xff" * 4,
        bytes(5) + b"\xc1",
        bytes(5) + msgpack.packb("text"),
        bytes(5) + msgpack.packb([None, 1, "x", [], float("nan"), float("inf"), {}, -1]),
        bytes(5) + msgpack.packb([1e308, "k\0", -1e308, "k", -5, 2, "k\0k", "x", "y", "z"]),
        bytes(5) + b"\x91" * 60_000,
        bytes(5) + b"\xdd\xff\xff\xff\xff",
    ],
)
async def test_damaged_policies_are_none_and_stop_nobody(client: redis.Redis, extra: bytes) -> None:
    record = len(extra).to_bytes(4, "big") + extra + b"body"
    client.hset(key("bodies"), "\1due", record)
    client.hset(key("ids"), "due", "delayed\1")
    client.zadd(key("delayed"), {"\1due": 1.0})
    client.xadd(key("stream"), {"id": "there", "body": "body", "extra": extra})
    async with consuming("bad") as (broker, consumer):
        await broker.put([limited("good")])
        taken = await take_all(consumer, 3)
        assert {delivery.id for delivery in taken} == {"due", "there", "good"}
        actions = {"due": Action.RETRY, "there": Action.POSTPONE, "good": Action.DEAD}
        outcomes = [Outcome(d, actions[d.id]) for d in taken]
        assert await consumer.settle(outcomes) == []
        assert await broker.retry_dead("bad", [("good", b"again")]) == 1
        again = await take_all(consumer, 3)
        assert await consumer.settle([Outcome(delivery) for delivery in again]) == []
        assert await consumer.idle()


@pytest.mark.parametrize(
    "name", ["admitted", "open", "judging", "held", "timers", "rates", "unique"]
)
async def test_overwritten_keys_of_policies_block_no_other_queue(
    client: redis.Redis, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with consuming("bad") as (broker, consumer):
        await broker.put([limited("a")])
        [taken] = await take_all(consumer, 1)
        await broker.put([limited("b")])
        client.rename(key(name), "saved") if client.exists(key(name)) else None
        client.set(key(name), "x")
        assert await consumer.settle([Outcome(taken)]) == [Outcome(taken)]
        with pytest.raises(BrokerError):
            await broker.put([limited("c")])
        assert await consumer.take(1, 0.1) == []
        assert "another type" in caplog.text
        client.delete(key(name))
        client.rename("saved", key(name)) if client.exists("saved") else None
        await consumer.settle([Outcome(taken)])
        assert [delivery.id for delivery in await take_all(consumer, 1)] == ["b"]


async def test_values_and_keys_that_anybody_wrote_are_looked_at(client: redis.Redis) -> None:
    client.hset(key("values:kind"), mapping={b"\xff": b"short", b"x": bytes(8) + b"value"})
    client.hset(key("rates"), mapping={b"\xff": b"x y", b"krate": b"9e15 nan"})
    client.hset(key("unique"), b"\xff", b"\xfe")
    client.hset(key("held"), mapping={b"klimit": b"many", b"\xff": b""})
    client.zadd(key("open"), {b"": 0, b"\xff": 0, b"O": 0})
    client.zadd(key("judging"), {b"B\0": 0, b"Bx": 0, b"H": 0, b"Hx\0\xff": 0, b"O": 0})
    async with consuming("bad") as (broker, consumer):
        assert dict(await broker.values("bad", "kind")) == {"x": b"value"}
        assert await broker.keys_in_use("bad")
        await broker.put([limited("a")])
        assert [delivery.id for delivery in await take_all(consumer, 1)] == ["a"]


# --- pauses -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["values:pauses", "fence"])
@pytest.mark.parametrize("is_paused", [False, True], ids=["unpaused", "paused"])
async def test_overwritten_keys_of_pauses_block_no_other_queue(
    client: redis.Redis, name: str, is_paused: bool
) -> None:
    async with working():
        await runs_what_is_sent()
        if is_paused:
            await asynctasq.pause(queue="bad")
        client.delete(key(name))
        client.set(key(name), "x")
        for what in ("once", "twice"):  # waking, and due by time
            await runs_what_is_sent()
            await note(what).delay(0.01).dispatch()
            await until(lambda: what in ran)  # noqa: B023
        for command in (["status"], ["pause", "-q", "bad"], ["resume", "-q", "bad"]):
            result = await asyncio.to_thread(CliRunner().invoke, cli, command)
            assert isinstance(result.exception, SystemExit | None), command
        client.delete(key(name))
        await asynctasq.pause(queue="bad")
        assert await asynctasq.resume(queue="bad")
        await note("mended").on_queue("bad").dispatch()
        await until(lambda: "mended" in ran)


async def test_pauses_that_anybody_wrote_stop_nobody_and_are_shown(client: redis.Redis) -> None:
    odd: dict[Any, Any] = {
        b"\xff\x1b[2J": bytes(8) + b"\xff",
        b"x" * 70_000: b"short",
        b"\0": bytes(8) + b"[" * 9_000,
    }
    expired = {b"over": (1).to_bytes(8, "big") + b"{}"}
    client.hset(key("values:pauses", "good"), mapping=odd | expired)
    client.hset(key("fence", "good"), mapping={b"at": b"no entry", b"serial": b"many"})
    async with working():
        await runs_what_is_sent()
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["status"])
        assert result.exit_code == 0, (result.output, result.exception)
        assert "\x1b" not in result.output
        await asynctasq.pause(task=note)
        held = await note("held").dispatch()
        await until(lambda: client.zscore(key("delayed", "good"), held.id) is not None)
        assert await asynctasq.resume(task=note)
        await until(lambda: "held" in ran)
