"""Servers of a benchmark's own, so that nothing else loads them and nothing of theirs is left."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import redis

from bench.running import PROJECT


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A `redis-server` without persistence on a free port; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
        )
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            redis.Redis(port=port).ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def distant(url: str, one_way_seconds: float) -> Iterator[str]:
    """The same server behind a network that takes so long each way; its URL there."""
    command = [sys.executable, "-m", "bench.network", str(urlsplit(url).port), str(one_way_seconds)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as network:
        try:
            assert network.stdout is not None
            yield f"redis://127.0.0.1:{int(network.stdout.readline())}/0"
        finally:
            network.kill()


@contextlib.contextmanager
def postgres_database() -> Iterator[str]:
    """A database of this run's own on the PostgreSQL server for tests; its URL without a driver."""
    import psycopg

    server = os.environ.get(
        "ASYNCTASQ_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test"
    )
    name = f"asynctasq_bench_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield server.rpartition("/")[0] + "/" + name
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
