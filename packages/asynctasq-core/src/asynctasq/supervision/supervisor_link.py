"""The protocol between a supervisor and its worker processes, over one socket per worker.

A worker announces itself once; the only other thing it may say is that the broker refuses it. The
parent orders it to stop, or to stop at once. A closed socket means stop, too: however the parent
ends, its workers stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgpack

from ..brokers.opening import installed_drivers
from ..config.settings import Config
from ..errors import ConfigurationError

logger = logging.getLogger(__name__)

#: The parent's orders.
STOP, NOW = b"s", b"n"

#: A worker's message that the broker refuses it and would refuse it again.
REFUSED = b"r"

_LENGTH, _MOST_BYTES = struct.Struct("!I"), 1024 * 1024

#: The type of a path among a broker's options.
_PATH = 1

#: Time to read what a worker wrote before it ended; the kernel already has it.
_LAST_WORD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker process tells its parent once the application is imported.

    Attributes:
        broker: The broker's kind and address, without a password.
        config: The configuration; only its part for the broker reaches the parent, which could not
            import everything that the rest may hold.
    """

    worker_id: str
    queues: tuple[str, ...]
    broker: str
    config: Config

    def packed(self) -> bytes:
        """The announcement as bytes; they name no code."""
        driver, options = self.config.driver, self.config.broker
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        announced = [self.worker_id, self.queues, self.broker, driver, values]
        packed: bytes = msgpack.packb(announced, default=_plain)
        return packed

    @classmethod
    def unpacked(cls, data: bytes) -> Announcement:
        """The announcement in these bytes.

        Raises:
            ValueError: They are none: another version of this package may have written them.
        """
        try:
            worker_id, queues, broker, driver, values = msgpack.unpackb(data, ext_hook=_path)
            if not all(isinstance(text, str) for text in (worker_id, broker, driver, *queues)):
                raise TypeError("a name is not text")
            options = {"driver": driver, driver: values}
            config = Config.load(options, installed_drivers().sections, environ={})
        except (TypeError, ConfigurationError) as e:
            raise ValueError(f"no announcement: {e}") from e
        return cls(worker_id, tuple(queues), broker, config)


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return msgpack.ExtType(_PATH, os.fsencode(value))
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"an option of a broker must be plain data or a path, not {type(value)}")


def _path(code: int, data: bytes) -> Path:
    if code != _PATH:
        raise TypeError("an option is of an unknown type")
    return Path(os.fsdecode(data))


class SupervisorLink:
    """A worker process's end of the socket to its supervisor.

    Args:
        fd: The inherited file descriptor, from `--link`.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)

    def announce(self, announcement: Announcement) -> None:
        """Tell the parent who this is; if the parent is gone, `obey` notices."""
        packed = announcement.packed()
        with contextlib.suppress(OSError):
            self._socket.sendall(_LENGTH.pack(len(packed)) + packed)

    def refused(self) -> None:
        """Tell the parent that the broker refuses this worker and would refuse the next one."""
        with contextlib.suppress(OSError):
            self._socket.sendall(REFUSED)

    def obey(self, stop: Callable[[], None], skip_grace: Callable[[], None]) -> None:
        """Call these, in a separate thread, when the parent says so.

        Not on the event loop, since a task may block it. `stop` is also called when the parent is
        gone. Either may be called when the worker is already stopping: terminals and service
        managers send signals to parent and workers alike.
        """

        def listen() -> None:
            order = b"?"
            while order:
                try:
                    order = self._socket.recv(1)
                except OSError:
                    order = b""
                (skip_grace if order == NOW else stop)()

        threading.Thread(target=listen, name="asynctasq-supervisor", daemon=True).start()


async def read_announcement(reader: asyncio.StreamReader) -> Announcement | None:
    """The announcement of the worker at the other end; `None` if it sends none that makes sense."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > _MOST_BYTES:
            raise ValueError(f"no announcement: {length} bytes")
        return Announcement.unpacked(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except ValueError:
        logger.exception(
            "a worker process announced itself in another form: restart its supervisor, too, "
            "after an upgrade"
        )
        return None


async def was_refused(reader: asyncio.StreamReader) -> bool:
    """Whether a worker that has ended said that the broker refuses it."""
    # Do not wait for the socket to close: a process forked by a task may hold it open.
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_LAST_WORD_SECONDS):
            return await reader.read(1) == REFUSED
    return False
