"""Several worker processes under one parent: `asynctasq worker --processes N`.

Owns the rules of that family: a worker that dies is replaced at once, and after a growing pause if
it dies at once again and again; what it was running is handed to others without waiting for its
lease; stopping reaches each worker exactly once, however many signals the terminal or a service
manager sends to whom; and when the parent dies, even by SIGKILL, its workers stop gracefully.

The parent imports nothing of the application: it learns the broker's configuration from the first
worker that has imported it. Each worker is a fresh interpreter joined to the parent by one socket
(`Link` is the worker's end). POSIX only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from .brokers import Backoff
from .config import Config
from .errors import BrokerError

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("!I")
_STOP, _NOW = b"s", b"n"

#: A worker that lived this long did not die "at once".
_LONG_LIFE_SECONDS = 10.0

#: What a worker has to end beyond its grace time, or after the order to skip it.
_MARGIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker process tells its parent once the application is imported.

    Attributes:
        broker: Kind and address, without a password.
        config: The configuration without what belongs to adapters.
    """

    worker_id: str
    queues: tuple[str, ...]
    broker: str
    config: Config


class Link:
    """A worker process's end of the socket to its supervisor.

    Args:
        fd: The inherited descriptor, as given by `--link`.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)

    def announce(self, announcement: Announcement) -> None:
        """Tell the parent who this is; a parent that is gone is noticed by `obey`."""
        packed = pickle.dumps(announcement)
        with contextlib.suppress(OSError):
            self._socket.sendall(_LENGTH.pack(len(packed)) + packed)

    def obey(self, stop: Callable[[], None], skip_grace: Callable[[], None]) -> None:
        """Call these on the running event loop when the parent says so.

        `stop` is also called when the parent is gone. Either may be called although the worker is
        stopping already: a terminal and a service manager send signals to parent and workers alike.
        """
        loop = asyncio.get_running_loop()

        def listen() -> None:
            order = b"?"
            while order:
                try:
                    order = self._socket.recv(1)
                except OSError:
                    order = b""
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    loop.call_soon_threadsafe(skip_grace if order == _NOW else stop)

        threading.Thread(target=listen, name="asynctasq-supervisor", daemon=True).start()


@dataclass(eq=False)
class _Child:
    """The parent's end of one worker process."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    announcement: Announcement | None = None
    started_at: float = field(default_factory=time.monotonic)
    retiring: bool = False

    def tell(self, order: bytes) -> None:
        if self.process.returncode is None and not self.writer.is_closing():
            self.writer.write(order)

    def kill(self) -> None:
        if self.process.returncode is None:
            logger.error("worker process killed", extra={"worker_pid": self.process.pid})
            self.process.kill()

    def lived_long(self) -> bool:
        return time.monotonic() - self.started_at >= _LONG_LIFE_SECONDS


class Supervisor:
    """Keeps a number of worker processes alive.

    Args:
        command: Program and arguments of a worker; `--link FD` is added.
        processes: How many.
        burst: Whether a worker that ends by itself is not replaced.
        grace_seconds: What the workers give running tasks at a stop; a worker that is still there
            well after it is killed.
        on_ready: Called with the announcement of the first worker that is ready.
        watch: Waits for a change of the application's files; each time it returns, all workers are
            replaced. A worker that cannot start then waits for the next change.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        burst: bool,
        grace_seconds: float,
        on_ready: Callable[[Announcement], None],
        watch: Callable[[], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        self._command = command
        self._processes = processes
        self._burst = burst
        self._grace_seconds = grace_seconds
        self._on_ready = on_ready
        self._watch = watch
        self._children: set[_Child] = set()
        self._any_was_ready = False
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._skipping_grace = False
        self._exit_code = 0

    async def run(self) -> int:
        """Run until stopped, or until every worker has ended by itself (`--burst`).

        Returns:
            The exit code: 0, or that of a worker that failed for good.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        watcher = asyncio.create_task(self._reload()) if self._watch else None
        try:
            await asyncio.gather(*(self._keep_one() for _ in range(self._processes)))
        finally:
            if watcher:
                watcher.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return self._exit_code

    def stop(self) -> None:
        """Stop gracefully; the second call skips the workers' grace time."""
        order = _NOW if self._stopping.is_set() else _STOP
        self._skipping_grace = order == _NOW
        self._stopping.set()
        self._changed.set()
        for child in self._children:
            self._end(child, order)

    def _end(self, child: _Child, order: bytes) -> None:
        child.tell(order)
        grace = 0.0 if order == _NOW else self._grace_seconds
        asyncio.get_running_loop().call_later(grace + _MARGIN_SECONDS, child.kill)

    async def _keep_one(self) -> None:
        """One worker after the other, until none is wanted any more."""
        pause = Backoff(first_seconds=0.5, most_seconds=30.0)
        died_young = False
        while not self._stopping.is_set():
            child = await self._start()
            code = await self._ended(child)
            if code != 0:
                await self._release(child)
            if self._was_last(child, code):
                return
            if code == 0 or child.retiring:
                continue
            if self._watch and child.announcement is None:
                await self._changed.wait()
                continue
            young = not child.lived_long()
            if not (young and died_young):
                pause.reset()
            await self._wait_unless_stopped(
                self._reported(child, code, pause.next() if young and died_young else 0.0)
            )
            died_young = young

    def _was_last(self, child: _Child, code: int) -> bool:
        """Whether nobody follows this worker; notes the exit code if so."""
        if self._stopping.is_set():
            # A service manager may have hit one that had only just been started.
            ended_by_stop = code in (0, -signal.SIGTERM, -signal.SIGINT)
            self._exit_code = self._exit_code or (0 if ended_by_stop else 1)
            return True
        if code == 0:
            return self._burst and not child.retiring
        if self._any_was_ready or self._watch:
            return False
        # None has ever come up, so another start would only fail the same way.
        self._exit_code = code if code > 0 else 1
        self.stop()
        return True

    def _reported(self, child: _Child, code: int, pause_seconds: float) -> float:
        logger.error(
            "worker process died, starting another",
            extra={
                "worker_pid": child.process.pid,
                "exit_code": code,
                "pause_seconds": pause_seconds,
            },
        )
        return pause_seconds

    async def _wait_unless_stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "--link",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                # Ctrl-C in the terminal goes to the parent alone, which passes it on.
                process_group=0,
            )
        child = _Child(process, *await asyncio.open_unix_connection(sock=ours))
        self._children.add(child)
        if self._stopping.is_set():
            self._end(child, _NOW if self._skipping_grace else _STOP)
        return child

    async def _ended(self, child: _Child) -> int:
        """Wait for its announcement, then for its end."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = _LENGTH.unpack(await child.reader.readexactly(_LENGTH.size))
            child.announcement = pickle.loads(await child.reader.readexactly(length))
            if not self._any_was_ready:
                self._any_was_ready = True
                self._on_ready(child.announcement)
        code = await child.process.wait()
        self._children.discard(child)
        child.writer.close()
        return code

    async def _release(self, child: _Child) -> None:
        """Hand what a dead worker was running to others at once."""
        if (announcement := child.announcement) is None:
            return
        from .app import App
        from .plugins import Adapters

        broker = App(announcement.config, Adapters({})).new_broker()
        try:
            await broker.release_worker(announcement.worker_id, announcement.queues)
        except BrokerError as e:
            logger.warning("leases of a dead worker run out by themselves", extra={"reason": e})
        finally:
            await broker.close()

    async def _reload(self) -> None:
        assert self._watch is not None
        while True:
            await self._watch()
            for child in self._children:
                child.retiring = True
                self._end(child, _STOP)
            self._changed.set()
            self._changed.clear()


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker process that runs under this interpreter."""
    return [sys.executable, "-m", "asynctasq", "worker", *arguments]
