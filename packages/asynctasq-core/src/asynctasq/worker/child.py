"""The life of a child process of `processes`: greet, then serve one call after another.

Owns the rule that a call does not outlive the process that asked for it: whatever ends the parent,
the child ends at once, along with everything that the call has started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from types import FrameType
from typing import BinaryIO, NoReturn

import msgpack

from . import signals
from .child_logs import relay

#: The header of each message: its kind and its length in bytes.
FRAME = struct.Struct("!cQ")

#: Kinds of messages. From the parent: a call, or that it is stopping. To it: an answer, or a log
#: record.
CALL, STOPPING, ANSWER, LOG = b"c", b"s", b"a", b"l"

#: Set in a child once its parent is stopping.
stopping = threading.Event()

#: How long a child without a call may take to finish once its parent is gone or closed the pool.
PARTING_SECONDS = 1.0

#: How often to check for the parent on systems where its end cannot be awaited.
_PARENT_SECONDS = 0.5


class _Connection:
    """The child's end of the socket to its parent.

    Attributes:
        is_busy: Whether a call is being served.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._sending = threading.Lock()
        self._pid = os.getpid()
        self.calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.is_busy = False

    def send(self, kind: bytes, body: bytes) -> bool:
        """Send; return whether the parent is still there. A fork made by a call sends nothing."""
        if os.getpid() != self._pid:
            return True
        with self._sending:
            try:
                self._socket.sendall(FRAME.pack(kind, len(body)) + body)
            except OSError:
                return False
        return True

    def receive(self) -> None:
        """Pass on what arrives, until the parent is gone or lets this process end."""
        # If the parent is killed before reading a reply, the connection is reset, not closed.
        with contextlib.suppress(OSError), self._socket.makefile("rb") as stream:
            while (message := _message(stream)) is not None:
                kind, body = message
                if kind == STOPPING:
                    stopping.set()
                else:
                    self.is_busy = True
                    self.calls.put(body)
        self.leave()

    def follow(self, parent: int) -> None:
        """Leave when the parent ends; a fork of it may hold the socket's other end open."""
        _until_ended(parent)
        self.leave()

    def leave(self) -> NoReturn:
        """End this process; at once if it serves a call, since no one waits for that any more."""
        if self.is_busy:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self.calls.put(None)
        time.sleep(PARTING_SECONDS)
        os._exit(1)


def serve(fd: int, parent: int) -> None:
    """Serve the calls that arrive on an inherited socket, until the parent ends.

    Args:
        fd: The socket's file descriptor.
        parent: The id of the process that started this one.
    """
    signals.handle(_left_to_the_parent, _left_to_the_parent)
    connection = _Connection(fd)
    threading.Thread(target=connection.receive, daemon=True).start()
    threading.Thread(target=connection.follow, args=(parent,), daemon=True).start()
    if (greeting := connection.calls.get()) is None:
        return
    call = _introduced(greeting, connection)
    reply = b""
    while True:
        connection.is_busy = False
        if not connection.send(ANSWER, reply) or (body := connection.calls.get()) is None:
            return
        reply = call(body)


def _introduced(greeting: bytes, connection: _Connection) -> Callable[[bytes], bytes]:
    # The path comes first: `start` may be importable through it alone.
    sys.path, log_level, module, name, start_with = msgpack.unpackb(
        greeting, unicode_errors="surrogateescape"
    )
    call: Callable[[bytes], bytes] = attrgetter(name)(import_module(module))(start_with)
    relay(log_level, lambda record: connection.send(LOG, record))
    return call


def _left_to_the_parent(number: int, frame: FrameType | None) -> None:
    """Ignore the signal: service managers signal every process, but the worker ends its children.

    This is a function, not SIG_IGN, which programs started by a task would inherit.
    """


def _until_ended(parent: int) -> None:
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(parent)
        except ProcessLookupError:
            return
        if os.getppid() == parent:  # otherwise it has ended, and another process has its id
            ending = select.poll()
            ending.register(fd, select.POLLIN)
            ending.poll()
        return
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)


def _message(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next message's kind and body; `None` if the stream ends before or within it."""
    header = stream.read(FRAME.size)
    if len(header) < FRAME.size:
        return None
    kind, length = FRAME.unpack(header)
    body = stream.read(length)
    return (kind, body) if len(body) == length else None
