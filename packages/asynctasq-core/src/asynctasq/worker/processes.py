"""A pool of child processes that run functions of the application, for `process=True` tasks.

Owns the isolation of these tasks: a child that dies (`os._exit`, a signal, a crash in C code) fails
the one call it was running and nothing else, a call that is cancelled or takes too long is ended by
killing its child, and no child outlives the process that started it.

Children are fresh interpreters, never forks: a fork would inherit the locks, connections and
event loop of a process with several threads. Each is joined to its parent by one socket and
serves one call at a time. POSIX only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import BinaryIO

from ..errors import TaskCrashed, TaskTimeout

_LENGTH = struct.Struct("!Q")

#: What a child has left to finish once its parent is gone or has closed the pool.
_PARTING_SECONDS = 1.0

_CHILD = "import sys; from asynctasq.worker.processes import serve; serve(int(sys.argv[1]))"


class ProcessPool:
    """Up to `size` children, started when first needed and kept.

    Belongs to one event loop. `start(*args)` runs once in each child and returns the function that
    serves its calls; both are pickled, so `start` must be importable. That function must turn
    errors of the application into bytes itself: an exception that leaves it ends the child.
    """

    def __init__(
        self, size: int, start: Callable[..., Callable[[bytes], bytes]], *args: object
    ) -> None:
        self._slots = asyncio.Semaphore(size)
        self._greeting = pickle.dumps((sys.path, pickle.dumps((start, args))))
        self._idle: list[_Child] = []

    async def run(self, body: bytes, timeout_seconds: float | None = None) -> bytes:
        """Serve one call in a child.

        Args:
            body: Handed to the function that `start` returned.
            timeout_seconds: Counted from the moment a child has the call; waiting for a free child
                and starting one are not counted.

        Raises:
            TaskCrashed: The child died; the message says how.
            TaskTimeout: The call took too long; its child was killed.
        """
        async with self._slots:
            child = await self._free_child()
            answered = False
            try:
                async with asyncio.timeout(timeout_seconds):
                    reply = await child.call(body)
                answered = True
            except TimeoutError:
                raise TaskTimeout(f"it ran longer than {timeout_seconds:g} s") from None
            finally:
                if answered:
                    self._idle.append(child)
                else:
                    await child.kill()
            return reply

    async def close(self) -> None:
        """End all idle children; to be called once no call is running."""
        children, self._idle = self._idle, []
        await asyncio.gather(*(child.close() for child in children))

    async def _free_child(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            # One that was killed while idle must not fail a call it never had.
            if child.is_alive():
                return child
            await child.kill()
        return await _Child.start(self._greeting)


@dataclass(slots=True)
class _Child:
    """The parent's end of one child process."""

    process: asyncio.subprocess.Process
    connection: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def start(cls, greeting: bytes) -> _Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    _CHILD,
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    # Ctrl-C in the terminal goes to the whole group; the worker decides alone
                    # what becomes of running tasks.
                    start_new_session=True,
                )
            child = cls(process, ours, *await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            ours.close()
            raise
        try:
            await child.call(greeting)
        except TaskCrashed as e:
            await child.kill()
            raise TaskCrashed(f"a process for it could not start, see stderr: {e}") from None
        except BaseException:
            await child.kill()
            raise
        return child

    def is_alive(self) -> bool:
        # Asked of the kernel: the event loop may not have come to hear of its death yet.
        try:
            self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def call(self, body: bytes) -> bytes:
        try:
            self.writer.write(_LENGTH.pack(len(body)) + body)
            (length,) = _LENGTH.unpack(await self.reader.readexactly(_LENGTH.size))
            return await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await self.process.wait()
            raise TaskCrashed(f"the process that ran it {_ending(code)}") from None

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(2 * _PARTING_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def serve(fd: int) -> None:
    """The life of a child: greet, then serve one call after the other until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A function, not SIG_IGN: programs that a task starts must not inherit the deafness.
        signal.signal(number, _left_to_the_parent)
    connection = socket.socket(fileno=fd)
    connection.set_inheritable(False)
    calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    if (greeting := calls.get()) is None:
        return
    # The path comes first: `start` may be importable through it alone.
    sys.path, pickled_start = pickle.loads(greeting)
    start, args = pickle.loads(pickled_start)
    call = start(*args)
    reply = b""
    while _sent(connection, reply) and (body := calls.get()) is not None:
        reply = call(body)


def _left_to_the_parent(number: int, frame: FrameType | None) -> None:
    """Nothing: a service manager signals every process, but the worker ends its own children."""


def _receive(connection: socket.socket, calls: queue.SimpleQueue[bytes | None]) -> None:
    """Pass on what arrives; once the parent is gone, see to it that this process ends too."""
    # A parent that is killed with a reply unread resets the connection instead of closing it.
    with contextlib.suppress(OSError), connection.makefile("rb") as stream:
        while (body := _frame(stream)) is not None:
            calls.put(body)
    calls.put(None)
    time.sleep(_PARTING_SECONDS)
    os._exit(1)


def _frame(stream: BinaryIO) -> bytes | None:
    """The next whole frame; `None` if the stream ends before or within it."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    body = stream.read(length)
    return body if len(body) == length else None


def _sent(connection: socket.socket, reply: bytes) -> bool:
    try:
        connection.sendall(_LENGTH.pack(len(reply)) + reply)
    except OSError:
        return False
    return True
