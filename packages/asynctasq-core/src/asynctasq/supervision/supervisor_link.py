"""The protocol between a supervisor and its worker processes, over one socket per worker.

A worker announces itself once; the only other thing it may say is that the broker refuses it. The
parent orders it to stop, or to stop at once. A closed socket means stop, too: however the parent
ends, its workers stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..config.settings import Config

#: The parent's orders.
STOP, NOW = b"s", b"n"

#: A worker's message that the broker refuses it and would refuse it again.
REFUSED = b"r"

_LENGTH = struct.Struct("!I")

#: Time to read what a worker wrote before it ended; the kernel already has it.
_LAST_WORD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker process tells its parent once the application is imported.

    Attributes:
        broker: The broker's kind and address, without a password.
        config: The configuration, without adapters' options.
    """

    worker_id: str
    queues: tuple[str, ...]
    broker: str
    config: Config


class Link:
    """A worker process's end of the socket to its supervisor.

    Args:
        fd: The inherited file descriptor, from `--link`.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)

    def announce(self, announcement: Announcement) -> None:
        """Tell the parent who this is; if the parent is gone, `obey` notices."""
        packed = pickle.dumps(announcement)
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
    """The announcement of the worker at the other end; `None` if it ends without one."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        announcement: Announcement = pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return announcement


async def was_refused(reader: asyncio.StreamReader) -> bool:
    """Whether a worker that has ended said that the broker refuses it."""
    # Do not wait for the socket to close: a process forked by a task may hold it open.
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_LAST_WORD_SECONDS):
            return await reader.read(1) == REFUSED
    return False
