"""The Redis broker wherever Redis may be, with the least rights that it needs.

An ACL user needs these rights, for a key prefix of `asynctasq`::

    ACL SETUSER worker reset on >password ~asynctasq:* &asynctasq:* \
        +eval +evalsha +time +get +set +publish +subscribe +unsubscribe \
        +xadd +xdel +xlen +xrange +xack +xclaim +xpending +xread +xreadgroup +xgroup +xinfo \
        +hget +hset +hdel +hmget +hgetall +hexists +hlen +hincrby +hrandfield +hscan \
        +zadd +zrem +zcard +zrange +zrangebyscore +zrangebylex +zlexcount +zcount +zrevrange \
        +zscore +zmscore +sadd +smembers

In a cluster it also needs `+cluster +command +readonly`, and `+info` lets `asynctasq doctor` look
closer. These are `RIGHTS`, `CLUSTER_RIGHTS` and `DOCTOR_RIGHTS` below, and what the tests grant.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asynctasq import RedisConfig
from asynctasq.brokers import (
    Action,
    Broker,
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
from asynctasq.errors import BrokerError, BrokerUnavailable, ConfigurationError

from ..redis_servers import need_server, supports_tls

# fmt: off
RIGHTS = [
    "+eval", "+evalsha", "+time", "+get", "+set", "+publish", "+subscribe", "+unsubscribe",
    "+xadd", "+xdel", "+xlen", "+xrange", "+xack", "+xclaim", "+xpending", "+xread", "+xreadgroup",
    "+xgroup", "+xinfo", "+hget", "+hset", "+hdel", "+hmget", "+zadd", "+zrem", "+zcard",
    "+hgetall", "+hexists", "+hlen", "+hincrby", "+hrandfield", "+hscan",
    "+zrangebylex", "+zlexcount", "+zcount",
    "+zrange", "+zrangebyscore", "+zrevrange", "+zscore", "+zmscore", "+sadd", "+smembers",
]
# fmt: on
CLUSTER_RIGHTS = ["+cluster", "+command", "+readonly"]
DOCTOR_RIGHTS = ["+info"]
SCOPE = ["reset", "~asynctasq:*", "&asynctasq:*"]


async def use_policies(broker: Broker) -> None:
    """Use policies, priorities and values in a queue of its own."""
    assert isinstance(broker, RedisBroker)
    info = WorkerInfo(f"w-{uuid4().hex[:8]}", "host", 1, ("asking",), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("asking",)))
    await consumer.start()
    policy = Policy(UniqueKey("u"), LimitKey("l", 1), RateKey("r", 0.001, 2))
    sent = [Outgoing("asking", name, b"", priority=1, policy=policy) for name in ("a", "b")]
    limited = Outgoing("asking", "c", b"", policy=Policy(limit=LimitKey("l", 1)))
    assert await broker.put([*sent, limited]) == {"b": "a"}
    [taken] = await consumer.take(2, 1)
    assert {key.kind for key in await broker.keys_in_use("asking")} >= {"unique", "limit"}
    await consumer.settle([Outcome(taken, Action.DEAD)])
    assert await broker.retry_dead("asking", [("a", b"")]) == 1
    assert await broker.purge("asking") == 2
    await broker.set_value("asking", "kind", "name", b"1", ttl_seconds=60)
    again = [Outgoing("asking", "d", b"")]
    assert await broker.replace_value("asking", "kind", "x", b"2", expected=None, messages=again)
    assert dict(await broker.values("asking", "kind")) == {"name": b"1", "x": b"2"}
    assert await broker.value("asking", "kind", "name") == b"1"
    await broker.pause("asking", "p", b"why")
    [held] = await consumer.take(1, 1)
    assert held.pauses == {"p": b"why"}
    await consumer.settle([Outcome(held, Action.PARK, pause="p")])
    assert await consumer.take(1, 0.1) == []
    assert await consumer.idle()
    assert await broker.resume("asking", "p")
    await broker.pause("asking", "", b"")
    assert await broker.purge("asking") == 1
    await broker.resume("asking", "")
    await consumer.stop()


async def use_everything(broker: Broker) -> None:
    """Use every operation of the broker once, over two queues."""
    info = WorkerInfo(f"w-{uuid4().hex[:8]}", "host", 1, ("high", "low"), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("high", "low")))
    await consumer.start()
    soon = time.time() + 0.2
    await broker.put([Outgoing("low", str(i), b"body") for i in range(5)])
    await broker.put([Outgoing("high", "due", b"body", soon), Outgoing("high", "first", b"body")])
    await broker.put([Outgoing("low", "cancelled", b"body", soon + 3600)])
    assert await broker.state("low", "cancelled") == "delayed"
    assert await broker.cancel("low", "cancelled", b"stopped", 60)
    assert await broker.result("low", "cancelled", 1) == b"stopped"
    assert not await consumer.idle()

    taken: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(taken) < 7:
            taken += await consumer.take(10, 1)
    by_id = {delivery.id: delivery for delivery in taken}
    assert taken[0].id == "first"
    assert await asyncio.to_thread(consumer.renew, taken) == []
    assert [worker.running for worker in await broker.workers()] == [7]
    waiting = asyncio.create_task(broker.result("low", "0", 10))
    outcomes = [
        Outcome(by_id["0"], result=b"result", result_ttl=60),
        Outcome(by_id["1"], Action.RETRY, b"again", delay=3600),
        Outcome(by_id["2"], Action.DEAD, info=b"reason"),
        Outcome(by_id["3"], Action.RELEASE),
        Outcome(by_id["due"]),
        Outcome(by_id["first"], Action.RETRY, b"at once"),
    ]
    assert await consumer.settle(outcomes) == []
    assert await waiting == b"result"
    [low] = [stats for stats in await broker.stats() if stats.name == "low"]
    assert (low.waiting, low.running, low.delayed, low.dead) == (1, 1, 1, 1)

    again: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(again) < 2:
            again += await consumer.take(10, 1)
    assert {(d.id, d.deliveries) for d in again} == {("3", 1), ("first", 1)}
    [letter] = await broker.dead_letters("low")
    assert (letter.id, letter.info) == ("2", b"reason")
    assert await broker.find_dead("low", ["2"]) == [letter]
    assert await broker.retry_dead("low", [("2", b"body")]) == 1
    async with asyncio.timeout(10):
        # In a cluster a read that `take` left behind may have it for a moment.
        while await broker.state("low", "2") != "waiting":
            await asyncio.sleep(0.01)
    assert await broker.purge("low") == 2
    await consumer.settle([Outcome(d, Action.DEAD) for d in again])
    assert await broker.purge_dead("low") == 1
    assert await broker.purge_dead("high", ["first"]) == 1
    assert await broker.release_worker(info.id, ["low"]) == 1
    await use_policies(broker)
    await consumer.stop()
    assert await broker.workers() == []
    assert await broker.state("low", "4") == "waiting"


async def _use(config: RedisConfig) -> str:
    broker = RedisBroker(config)
    try:
        await use_everything(broker)
        findings = await broker.check()
        assert [f.text for f in findings if f.level == "error"] == []
    finally:
        await broker.close()
    return broker.describe()


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
async def test_every_operation_works_on_each_server(start_redis: Any, kind: str) -> None:
    await _use(RedisConfig(url=start_redis(kind=kind).url))


async def test_every_operation_works_through_a_unix_socket(
    start_redis: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    start_redis("--port", "0", "--unixsocket", path, unix_socket_path=path)
    assert await _use(RedisConfig(url=f"unix://{path}?db=3")) == f"redis {path}/3"


async def test_every_operation_works_with_a_password(start_redis: Any) -> None:
    server = start_redis("--requirepass", "se:cr@t", password="se:cr@t")
    name = await _use(RedisConfig(url=f"redis://:se%3Acr%40t@127.0.0.1:{server.port}/2"))
    assert name == f"redis 127.0.0.1:{server.port}/2"
    await _use(RedisConfig(url=server.url, password="se:cr@t"))
    assert "se:cr@t" not in repr(RedisConfig(url=server.url, password="se:cr@t"))


async def test_the_documented_rights_are_all_that_a_user_needs(start_redis: Any) -> None:
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", *SCOPE, "on", ">pw", *RIGHTS)
        config = RedisConfig(url=server.url, username="worker", password="pw")
        await _use(config)
        broker = RedisBroker(config)
        assert [f.level for f in await broker.check()] == ["ok", "ok", "warning"]
        client.execute_command("ACL", "SETUSER", "worker", *DOCTOR_RIGHTS)
        assert len(await broker.check()) > 3
        await broker.close()


async def test_the_documented_rights_suffice_in_a_cluster(cluster: Any) -> None:
    for node in cluster:
        with node.client() as client:
            rights = [*SCOPE, "on", ">pw", *RIGHTS, *CLUSTER_RIGHTS, *DOCTOR_RIGHTS]
            client.execute_command("ACL", "SETUSER", "worker", *rights)
    config = RedisConfig(url=cluster[0].url, cluster=True, username="worker", password="pw")
    name = await _use(config)
    assert name == f"redis cluster 127.0.0.1:{cluster[0].port}/0"


async def test_a_missing_right_is_named_before_anything_is_half_done(start_redis: Any) -> None:
    server = start_redis()
    for missing in set(RIGHTS) - {"+subscribe", "+unsubscribe"}:  # workers need neither
        rights = [right for right in RIGHTS if right != missing]
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "worker", *SCOPE, "on", ">pw", *rights)
        broker = RedisBroker(RedisConfig(url=server.url, username="worker", password="pw"))
        info = WorkerInfo("w", "host", 1, ("q",), 10, time.time())
        with pytest.raises(BrokerError, match=f"(?i)denies a right.*{missing[1:]}") as refused:
            await broker.consumer(ConsumerOptions(info, ("q",))).start()
        assert not isinstance(refused.value, BrokerUnavailable)
        await broker.close()


async def test_a_sender_without_rights_is_told_at_once(start_redis: Any) -> None:
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", *SCOPE, "on", ">pw", "+eval", "+evalsha")
    broker = RedisBroker(RedisConfig(url=server.url, username="worker", password="pw"))
    with pytest.raises(BrokerError, match="denies a right") as refused:
        await broker.put([Outgoing("q", "a", b"secret body")])
    await broker.close()
    assert not isinstance(refused.value, BrokerUnavailable)
    assert "secret" not in str(refused.value)


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of 127.0.0.1 for servers and clients."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1")
    run(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
        "-keyout", "ca.key", "-out", "ca.crt",
        "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    run(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=redis",
        "-keyout", "redis.key", "-out", "redis.csr",
    )  # fmt: skip
    run(
        "x509", "-req", "-in", "redis.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", "redis.crt",
    )  # fmt: skip


async def test_every_operation_works_with_tls(start_redis: Any, tmp_path: Path) -> None:
    if not supports_tls(need_server("redis")):
        pytest.skip("the server is built without TLS")
    make_certificates(tmp_path)
    files: dict[str, Any] = {
        "ssl_ca_certs": str(tmp_path / "ca.crt"),
        "ssl_certfile": str(tmp_path / "redis.crt"),
        "ssl_keyfile": str(tmp_path / "redis.key"),
    }
    port = start_redis().port  # a free port, given up at once
    server = start_redis(
        "--port", "0", "--tls-port", str(port + 1),
        "--tls-cert-file", files["ssl_certfile"], "--tls-key-file", files["ssl_keyfile"],
        "--tls-ca-cert-file", files["ssl_ca_certs"],
        port=port + 1, ssl=True, **files,
    )  # fmt: skip
    assert server is not None
    await _use(RedisConfig(url=f"rediss://127.0.0.1:{port + 1}/0", **files))
    other = tmp_path / "other"
    other.mkdir()
    make_certificates(other)
    theirs = {"ssl_certfile": str(other / "redis.crt"), "ssl_keyfile": str(other / "redis.key")}
    for options, text in (
        ({}, "certificate verify failed"),
        ({**files, **theirs}, "unknown ca"),
        ({**files, "ssl_keyfile": theirs["ssl_keyfile"]}, "key values mismatch"),
        ({**files, "ssl_certfile": __file__}, "PEM"),
    ):
        await refuses_for_good(RedisConfig(url=f"rediss://127.0.0.1:{port + 1}/0", **options), text)
    with pytest.raises(ConfigurationError, match=r"ssl_ca_certs: .*nowhere"):
        RedisBroker(RedisConfig(url="rediss://127.0.0.1/0", ssl_ca_certs=str(other / "nowhere")))


async def refuses_for_good(config: RedisConfig, text: str) -> None:
    """A worker ends at its start, a dispatch raises, and the doctor says it."""
    broker = RedisBroker(config)
    info = WorkerInfo("w", "host", 1, ("q",), 10, time.time())
    for call in (
        broker.consumer(ConsumerOptions(info, ("q",))).start,
        lambda: broker.put([Outgoing("q", "a", b"")]),
    ):
        refusal = await refusal_of(call)
        assert text in str(refusal)
    findings = await broker.check()
    assert [finding.level for finding in findings] == ["error"]
    await broker.close()


async def refusal_of(call: Callable[[], Awaitable[object]]) -> BrokerError:
    """Why it is refused. What the server says of a client's certificate may get lost at first."""
    async with asyncio.timeout(30):
        while True:
            try:
                await call()
            except BrokerUnavailable:
                continue
            except BrokerError as e:
                return e


async def test_a_sentinel_fail_over_is_followed(start_redis: Any, tmp_path: Path) -> None:
    master = start_redis("--appendonly", "yes")
    replica = start_redis("--replicaof", "127.0.0.1", str(master.port))
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor ours 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds ours 500\n"
        "sentinel failover-timeout ours 3000\n"
    )
    sentinel = start_redis(str(configuration), "--sentinel")
    config = RedisConfig(
        sentinels=(f"127.0.0.1:{sentinel.port}",), sentinel_master="ours", timeout=20.0
    )
    await _use(config)
    broker = RedisBroker(config)
    info = WorkerInfo("w", "host", 1, ("q",), 10, time.time())
    consumer = broker.consumer(ConsumerOptions(info, ("q",)))
    await consumer.start()
    await broker.put([Outgoing("q", "running", b""), Outgoing("q", "waiting", b"")])
    [running] = await consumer.take(1, 1)
    with master.client() as client, sentinel.client() as watcher:
        assert client.wait(1, 5000) == 1
        while int(watcher.sentinel_master("ours")["num-slaves"]) < 1:
            await asyncio.sleep(0.05)
    master.kill()
    with pytest.raises(BrokerUnavailable):
        await consumer.take(1, 0.1)
    await broker.put([Outgoing("q", "after", b"")])
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while len(seen) < 2:
            seen |= {delivery.id for delivery in await consumer.take(5, 1)}
    assert seen == {"waiting", "after"}
    assert await consumer.settle([Outcome(running)]) == []
    assert await asyncio.to_thread(consumer.renew, []) == []
    with replica.client() as client:
        assert client.info("replication")["role"] == "master"
    await consumer.stop()
    await broker.close()


def test_settings_that_exclude_each_other_are_refused() -> None:
    for options, text in (
        ({"url": "http://localhost"}, "redis://"),
        ({"url": "redis://localhost/3", "cluster": True}, "database 0"),
        ({"url": "unix:///tmp/socket", "cluster": True}, "one node"),
        ({"cluster": True, "sentinels": ("a:1",)}, "exclude each other"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            RedisBroker(RedisConfig(**options))
