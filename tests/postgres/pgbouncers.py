"""A pgbouncer of a test's own, in transaction mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ..missing import missing
from ..redis_servers import free_port

_SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
"""


@contextmanager
def pgbouncer(url: str, *, pool_size: int = 5, prepared: int = 0) -> Iterator[str]:
    """The URL of a database by way of a pgbouncer; skips where there is none, fails on CI.

    Args:
        prepared: How many prepared statements it is to know; it skips before 1.21, which knows
            none.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        missing("no pgbouncer")
    if prepared and _version(program) < (1, 21):
        pytest.skip("this pgbouncer knows no prepared statements")
    parts, port = urlsplit(url), free_port()
    text = _SETTINGS.format(
        host=parts.hostname,
        port=parts.port or 5432,
        user=parts.username or "postgres",
        own_port=port,
        pool_size=pool_size,
    )
    if prepared:
        text += f"max_prepared_statements = {prepared}\n"
    # As root it refuses to run, and `nobody` cannot look into pytest's folders.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="asynctasq-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings, log = folder / "pgbouncer.ini", folder / "log"
        settings.write_text(text)
        with log.open("wb") as file:
            process = subprocess.Popen([program, *user, settings], stdout=file, stderr=file)
        try:
            _wait_for(process, port, log)
            yield parts._replace(netloc=f"{parts.username or 'postgres'}@127.0.0.1:{port}").geturl()
        finally:
            process.kill()
            process.wait()


def _version(program: str) -> tuple[int, ...]:
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return tuple(map(int, output.stdout.split()[1].split(".")[:2]))


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()) from None
            time.sleep(0.02)


def connections_to_server(url: str) -> int:
    """How many clients the database of a URL has, the one that asks left out."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchone()
    assert row is not None
    return int(row[0])
