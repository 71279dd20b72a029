"""The life of a child process of `processes`: greet, then serve one call after the other.

Owns the rule that a call does not outlive the process that asked for it: whatever ends the parent,
the child ends at once, and with it what the call has started.
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

#: Before each message: its kind and its length in bytes.
FRAME = struct.Struct("!cQ")

#: Kinds: a call from the parent; an answer, and a log record, to it.
CALL, ANSWER, LOG = b"c", b"a", b"l"

#: What a child without a call has left to finish once its parent is gone or has closed the pool.
PARTING_SECONDS = 1.0

#: How often a parent is looked for where its end cannot be waited for.
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
        """Whether the parent is still there; what a call has forked says nothing here."""
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
        # A parent that is killed with a reply unread resets the connection instead of closing it.
        with contextlib.suppress(OSError), self._socket.makefile("rb") as stream:
            while (body := _body(stream)) is not None:
                self.is_busy = True
                self.calls.put(body)
        self.leave()

    def follow(self, parent: int) -> None:
        """Leave with the parent; a fork of it may hold the socket's other end open."""
        _until_ended(parent)
        self.leave()

    def leave(self) -> NoReturn:
        """End this process: at once if it serves a call, which nobody waits for any more."""
        if self.is_busy:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self.calls.put(None)
        time.sleep(PARTING_SECONDS)
        os._exit(1)


def serve(fd: int, parent: int) -> None:
    """Serve the calls that come by an inherited socket.

    Args:
        parent: The process that started this one, for as long as it lives.
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
    """Nothing: a service manager signals every process, but the worker ends its own children.

    A function and not SIG_IGN, which programs that a task starts would inherit.
    """


def _until_ended(parent: int) -> None:
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(parent)
        except ProcessLookupError:
            return
        if os.getppid() == parent:  # else it ended before, and another has its number
            ending = select.poll()
            ending.register(fd, select.POLLIN)
            ending.poll()
        return
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)


def _body(stream: BinaryIO) -> bytes | None:
    """The next whole body; `None` if the stream ends before or within it."""
    header = stream.read(FRAME.size)
    if len(header) < FRAME.size:
        return None
    _, length = FRAME.unpack(header)
    body = stream.read(length)
    return body if len(body) == length else None
