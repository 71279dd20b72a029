"""The servers that tests start for themselves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ..redis_servers import RedisProcess


@pytest.mark.parametrize("distance", [0, 10000])
def test_a_server_whose_port_was_taken_starts_on_another(tmp_path: Path, distance: int) -> None:
    server = RedisProcess(tmp_path / "redis", "--cluster-enabled", "yes")
    wanted = server.port
    with socket.create_server(("", wanted + distance)):
        server.start()
    try:
        assert server.port != wanted
        with server.client() as client:
            assert client.ping()
    finally:
        server.kill()
