"""A pool of child processes that run the application's functions, for `process=True` tasks.

Owns the isolation of these tasks. A child that dies (`os._exit`, a signal, a crash in C code) fails
only the call it was running. A call that is cancelled or takes too long is ended by killing its
child and everything that the child has started. No call outlives the process that asked for it.

Children are fresh interpreters, never forks: a fork would inherit the locks, connections and event
loop of a process with several threads. Each leads a process group, is connected to its parent by
one socket and serves one call at a time. Each side learns of the other's end from the process
itself, not from the socket, which processes forked by a task hold open. POSIX only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import msgpack

from ..errors import TaskCrashed, TaskTimeout
from .child import CALL, FRAME, LOG, PARTING_SECONDS, STOPPING

#: A child without a call for this long is ended.
IDLE_SECONDS = 60.0

#: Time to read what an ended child wrote before; it is already in the socket.
_LAST_WORD_SECONDS = 1.0

_CHILD = "import sys; from asynctasq.worker.child import serve; serve(*map(int, sys.argv[1:]))"


class ProcessPool:
    """Up to `size` children, started when first needed and kept for a while.

    Belongs to one event loop. The function that serves calls must itself turn the application's
    errors into bytes: an exception that escapes it ends the child.

    Args:
        size: Maximum number of children.
        start: Called once in each child, which imports it by name; returns the function that
            serves calls.
        greeting: The argument for `start`.
        max_calls: Replace a child after this many calls.
        log: Called with each log record from a child, as encoded by `child_logs.LogRelay`.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[bytes], Callable[[bytes], bytes]],
        greeting: bytes = b"",
        *,
        max_calls: int | None = None,
        log: Callable[[bytes], object] = lambda record: None,
    ) -> None:
        self._slots = asyncio.Semaphore(size)
        log_level = logging.getLogger().getEffectiveLevel()
        where = (start.__module__, start.__qualname__)
        path = [folder for folder in sys.path if isinstance(folder, str)]
        self._greeting: bytes = msgpack.packb(
            (path, log_level, *where, greeting), unicode_errors="surrogateescape"
        )
        self._max_calls = max_calls
        self._log = log
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False

    async def run(self, body: bytes, timeout_seconds: float | None = None) -> bytes:
        """Serve one call in a child.

        Args:
            body: The argument for the function that `start` returned.
            timeout_seconds: Counted from the moment a child has the call, without waiting for a
                free child or starting one.

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
                    self._put_back(child)
                else:
                    await child.kill()
            return reply

    def tell_stopping(self) -> None:
        """Set `child.stopping` in all children, and in those that are started from now on."""
        self._is_stopping = True
        for child in self._children:
            child.tell_stopping()

    async def close(self) -> None:
        """End all idle children; call this once no call is running."""
        if self._timer is not None:
            self._timer.cancel()
        for child in self._idle:
            self._retire(child)
        self._idle.clear()
        await asyncio.gather(*self._retiring)

    def kill(self) -> None:
        """Kill all children and wait for their ends; for another thread, or as a last act."""
        children = tuple(self._children)
        for child in children:
            child.kill_group()
        for child in children:
            child.process.wait()

    async def _free_child(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            # A child that was killed while idle must not fail a call that it never had.
            if child.is_alive():
                return child
            await child.kill()
        return await self._started()

    async def _started(self) -> _Child:
        child = _Child(self._log)
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        try:
            await child.open()
            await child.call(self._greeting)
        except TaskCrashed as e:
            await child.kill()
            raise TaskCrashed(f"a process for it could not start, see stderr: {e}") from None
        except BaseException:
            await child.kill()
            raise
        child.calls = 0
        if self._is_stopping:
            child.tell_stopping()
        return child

    # --- children that are not needed ---------------------------------------------------

    def _put_back(self, child: _Child) -> None:
        if self._max_calls is not None and child.calls >= self._max_calls:
            self._retire(child)
            return
        child.idle_since = monotonic()
        self._idle.append(child)
        if self._timer is None:
            self._wait_for_idle(IDLE_SECONDS)

    def _retire(self, child: _Child) -> None:
        task = asyncio.create_task(child.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _wait_for_idle(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._retire_idle)

    def _retire_idle(self) -> None:
        """End children that have been idle for too long; they are first in the list."""
        self._timer = None
        now = monotonic()
        while self._idle and (left := self._idle[0].idle_since + IDLE_SECONDS - now) <= 0:
            self._retire(self._idle.pop(0))
        if self._idle:
            self._wait_for_idle(left)


class _Child:
    """The parent's end of one child process.

    Attributes:
        ended: Done once the process and what it started have ended.
        calls: How many calls it has answered.
    """

    def __init__(self, log: Callable[[bytes], object]) -> None:
        self._log = log
        self.calls = 0
        self.idle_since = 0.0
        self._answer: asyncio.Future[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connection, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C in the terminal signals the whole group, but only the worker decides
                # what happens to running tasks.
                start_new_session=True,
            )
        self.ended = asyncio.create_task(self._end())

    async def open(self) -> None:
        """Start reading what the child sends."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        self._reading = asyncio.create_task(self._read(reader))

    def is_alive(self) -> bool:
        # Ask the kernel: the event loop may not have learnt of its death yet.
        return self.process.poll() is None

    async def call(self, body: bytes) -> bytes:
        """Make a call and return the answer."""
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._writer.write(FRAME.pack(CALL, len(body)) + body)
        reply: bytes = await answer
        self.calls += 1
        return reply

    def tell_stopping(self) -> None:
        if self._reading is not None and not self._writer.is_closing():
            self._writer.write(FRAME.pack(STOPPING, 0))

    async def kill(self) -> None:
        """Kill it and what it started, and wait for the end, however often that is cancelled."""
        self.kill_group()
        await _through(self.ended)
        self.process.wait()  # in case that task was cancelled along with all others

    def kill_group(self) -> None:
        # Until the process is reaped, no other group can have its number.
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Let the child end by itself; what it started goes on."""
        self._writer.close()
        await asyncio.wait({self.ended}, timeout=2 * PARTING_SECONDS)
        await self.kill()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = FRAME.unpack(await reader.readexactly(FRAME.size))
                body = await reader.readexactly(length)
                if kind == LOG:
                    self._log(body)
                elif self._answer is not None and not self._answer.done():
                    self._answer.set_result(body)
        if self._is_busy:
            self.kill_group()  # it is ending, or can no longer answer

    @property
    def _is_busy(self) -> bool:
        return self._answer is not None and not self._answer.done()

    async def _end(self) -> None:
        """Clean up once the process has ended."""
        await _until_ended(self.process)
        is_busy = self._is_busy
        if is_busy:
            self.kill_group()  # what a crashed task has started ends with it
        code = self.process.wait()
        if self._reading is not None:
            # The stream may never end, as other processes may hold its other end.
            if is_busy:
                await asyncio.wait({self._reading}, timeout=_LAST_WORD_SECONDS)
            self._reading.cancel()
            self._writer.close()
        else:
            self._connection.close()
        if self._answer is not None and not self._answer.done():
            crash = TaskCrashed(f"the process that ran it {_ending(code)}")
            self._answer.set_exception(crash)


async def _through(task: asyncio.Task[None]) -> None:
    """Wait for a task, however often this is cancelled; raise the cancellation afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled is not None:
        raise cancelled


async def _until_ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child to end; on Linux without reaping it, which would free its number."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    if not hasattr(os, "pidfd_open"):
        threading.Thread(target=_tell, args=(process, loop, ended), daemon=True).start()
        await ended.wait()
        return
    fd = os.pidfd_open(process.pid)
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _tell(
    process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, ended: asyncio.Event
) -> None:
    process.wait()
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(ended.set)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
