"""Redis servers of a test's own, proxies in front of them, a cluster, and deployments.

A deployment is an application with its queue and worker processes, on each broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest
import pytest_asyncio
import redis

from ..redis_servers import RedisProcess
from ..servers import postgres_database, redis_url
from .deployments import Deployment


class StartRedis(Protocol):
    """Starts a server that ends with the test."""

    def __call__(
        self, *options: str, kind: str = "redis", port: int = 0, **connection: Any
    ) -> RedisProcess: ...


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Starts servers; `kind` is `redis`, `redis-6.2` or `valkey`."""
    started: list[RedisProcess] = []

    def start(*options: str, kind: str = "redis", port: int = 0, **connection: Any) -> RedisProcess:
        folder = tmp_path / f"redis-{len(started)}"
        server = RedisProcess(folder, *options, kind=kind, port=port)
        started.append(server)
        server.start(**connection)
        return server

    yield start
    for server in started:
        server.kill()


class Proxy:
    """A TCP proxy in front of a server.

    Attributes:
        stalled: While set, nothing is passed on in either direction; connections stay open.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.stalled = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, sink in ((reader, target_writer), (target_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                while self.stalled:
                    await asyncio.sleep(0.01)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def stop(self) -> None:
        """Close every connection."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def start_proxy() -> AsyncIterator[Callable[[int], Any]]:
    """Starts proxies in front of a port."""
    proxies: list[Proxy] = []

    async def start(port: int) -> Proxy:
        proxies.append(Proxy(port))
        await proxies[-1].start()
        return proxies[-1]

    yield start
    for proxy in proxies:
        await proxy.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisProcess]]:
    """Six nodes: three masters with a replica each. Tests leave all of them running."""
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "yes")
    nodes = [RedisProcess(folder / str(i), *options) for i in range(6)]
    try:
        for node in nodes:
            node.start()
        _join(nodes)
        _wait_for(lambda: all(_is_complete(node) for node in nodes))
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def _join(nodes: list[RedisProcess]) -> None:
    """Make three masters, which share the slots, and three replicas of as many single nodes."""
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in nodes]
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        masters = [client.execute_command("CLUSTER MYID") for client in clients[:3]]
        for i, client in enumerate(clients[:3]):
            client.execute_command("CLUSTER ADDSLOTS", *range(i, 16384, 3))
        for client, master in zip(clients[3:], masters, strict=True):
            _wait_for(partial(_knows, client, master))
            client.execute_command("CLUSTER REPLICATE", master)


def _knows(client: redis.Redis, node: str) -> bool:
    nodes: Any = client.execute_command("CLUSTER NODES")
    return any(known["node_id"] == node for known in nodes.values())


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.05)


def _is_complete(node: RedisProcess) -> bool:
    with node.client() as client:
        info: Any = client.execute_command("CLUSTER INFO")
        role = client.info("replication")
    is_linked = role["role"] == "master" or role["master_link_status"] == "up"
    return (info["cluster_state"], info["cluster_size"]) == ("ok", "3") and is_linked


@pytest.fixture
def sqlite_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a queue file."""
    settings = {
        "ASYNCTASQ_DRIVER": "sqlite",
        "ASYNCTASQ_SQLITE_PATH": str(tmp_path / "queue.db"),
    }
    deployment = Deployment(tmp_path, settings)
    yield deployment
    deployment.end()


@pytest.fixture
def redis_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a key prefix of its own on the server for tests."""
    prefix = f"test-{uuid4().hex}"
    settings = {
        "ASYNCTASQ_DRIVER": "redis",
        "ASYNCTASQ_REDIS_URL": redis_url(),
        "ASYNCTASQ_REDIS_KEY_PREFIX": prefix,
    }
    deployment = Deployment(tmp_path, settings)
    yield deployment
    deployment.end()
    # Not where the settings lead by now: a test may have sent its deployment to another server.
    with redis.Redis.from_url(redis_url()) as client:
        for key in client.scan_iter(f"{prefix}*", count=1000):
            client.delete(key)


@pytest.fixture(scope="session")
def postgres_faults_url() -> Iterator[str]:
    """The URL of a database for all deployments of the run."""
    with postgres_database("asynctasq_faults") as url:
        yield url


@pytest.fixture
def postgres_deployment(tmp_path: Path, postgres_faults_url: str) -> Iterator[Deployment]:
    """A deployment with a schema of its own in the database for tests."""
    settings = {
        "ASYNCTASQ_DRIVER": "postgres",
        "ASYNCTASQ_POSTGRES_URL": postgres_faults_url,
        "ASYNCTASQ_POSTGRES_SCHEMA": f"test_{uuid4().hex}",
    }
    deployment = Deployment(tmp_path, settings)
    yield deployment
    deployment.end()


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """A deployment on each of the brokers that processes can share."""
    found: Deployment = request.getfixturevalue(f"{request.param}_deployment")
    return found
