"""What a worker process tells its supervisor, and what it may not make it believe."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from asynctasq import Config, load_config
from asynctasq.supervision.supervisor_link import Announcement, SupervisorLink, read_announcement


async def told_by(worker: socket.socket, parent: socket.socket) -> Announcement | None:
    """What the parent reads once the worker's end is closed."""
    reader, writer = await asyncio.open_unix_connection(sock=parent)
    worker.close()
    try:
        return await read_announcement(reader)
    finally:
        writer.close()
        await writer.wait_closed()


def announced(config: Config) -> Announcement | None:
    worker, parent = socket.socketpair()
    link = SupervisorLink(worker.detach())
    link.announce(Announcement("w1", ("default", "mails"), "somewhere", config))
    return asyncio.run(told_by(link._socket, parent))


async def read(data: bytes) -> Announcement | None:
    worker, parent = socket.socketpair()
    worker.sendall(data)
    return await told_by(worker, parent)


@pytest.mark.parametrize(
    "options",
    [
        {"sqlite": {"path": Path("a/b.db"), "busy_timeout": 2}},
        {"sqlite": "queue.db"},
        {"driver": "memory"},
        {
            "redis": {
                "url": "rediss://u:p@h/1",
                "sentinels": ("a:1", "b:2"),
                "password": "s",
                "ssl_check_hostname": False,
            }
        },
    ],
)
def test_the_parent_learns_where_the_broker_is(options: dict[str, Any]) -> None:
    config = load_config(options)
    found = announced(config)
    assert found is not None
    assert (found.worker_id, found.queues, found.broker) == (
        "w1",
        ("default", "mails"),
        "somewhere",
    )
    assert found.config.driver == config.driver
    if config.driver != "memory":  # whose options are never equal
        assert found.config.broker == config.broker


def test_the_environment_of_the_parent_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config({"sqlite": ".asynctasq/queue.db"})
    monkeypatch.setenv("ASYNCTASQ_SQLITE_PATH", "elsewhere.db")
    found = announced(config)
    assert found is not None
    assert found.config.broker.path == ".asynctasq/queue.db"


def test_the_parent_is_told_no_secret_that_it_does_not_need() -> None:
    config = load_config(
        {"driver": "sqlite", "signing_key": "k" * 16, "task_defaults": {"queue": "hidden"}}
    )
    packed = Announcement("w1", (), "somewhere", config).packed()
    assert b"k" * 16 not in packed
    assert b"hidden" not in packed


class Evil:
    """Unpickling it runs code."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "ran", True)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()),
        b"",
        b"\xc1",
        msgpack.packb(["w1", ["default"], "somewhere", "sqlite"]),
        msgpack.packb(["w1", ["default"], "somewhere", "sqlite", {"new_option": 1}]),
        msgpack.packb(["w1", ["default"], "somewhere", "sqlite", {"busy_timeout": "long"}]),
        msgpack.packb(["w1", ["default"], "somewhere", "sqlite", 7]),
        msgpack.packb(["w1", ["default"], "somewhere", "no_such_driver", {}]),
        msgpack.packb(["w1", ["default"], "somewhere", ["sqlite"], {}]),
        msgpack.packb([1, ["default"], "somewhere", "sqlite", {}]),
        msgpack.packb(["w1", [b"default"], "somewhere", "sqlite", {}]),
        msgpack.packb(["w1", 7, "somewhere", "sqlite", {}]),
        msgpack.packb(["w1", [], "x", "sqlite", {"path": msgpack.ExtType(9, b"x")}]),
    ],
)
async def test_an_announcement_in_another_form_is_none_and_is_said(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert await read(struct.pack("!I", len(data)) + data) is None
    assert "restart its supervisor" in caplog.text
    assert not Evil.ran


async def test_a_length_beyond_reason_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    assert await read(struct.pack("!I", 2**32 - 1)) is None
    assert "restart its supervisor" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\x09abc"])
async def test_a_worker_that_ends_without_an_announcement_is_no_error(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert await read(data) is None
    assert not [r for r in caplog.records if r.name.startswith("asynctasq")]
