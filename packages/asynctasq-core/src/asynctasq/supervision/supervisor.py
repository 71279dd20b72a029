"""Several worker processes under one parent: `asynctasq worker --processes N`.

Owns these rules. A worker that dies is replaced at once, or after growing pauses if it keeps dying
right after its start. What it was running is handed to others without waiting for its lease.
Stopping reaches each worker exactly once, however many signals a terminal or service manager sends
to parent and workers. When the parent dies, even by SIGKILL, its workers stop gracefully.

The parent imports nothing of the application: it learns the broker's configuration from the first
worker that has imported it. Each worker is a fresh interpreter connected to the parent by a
`supervisor_link`. POSIX only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass, field

from ..brokers import Backoff
from ..brokers.opening import open_broker
from ..errors import BrokerError
from ..worker import signals
from .supervisor_link import NOW, STOP, Announcement, read_announcement, was_refused

logger = logging.getLogger(__name__)

#: A worker that lived this long did not die "at once".
_LONG_LIFE_SECONDS = 10.0

#: How long a worker may take to end beyond its grace time, or after the order to skip it.
_MARGIN_SECONDS = 10.0


@dataclass(eq=False)
class _WorkerProcess:
    """The parent's end of one worker process."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    announcement: Announcement | None = None
    started_at: float = field(default_factory=time.monotonic)
    lived_seconds: float = 0.0
    refused: bool = False
    retiring: bool = False

    def tell(self, order: bytes) -> None:
        if self.process.returncode is None and not self.writer.is_closing():
            self.writer.write(order)

    def kill(self) -> None:
        if self.process.returncode is None:
            logger.error("worker process killed", extra={"worker_pid": self.process.pid})
            self.process.kill()


@dataclass(slots=True)
class _Pauses:
    """How long to wait before replacing a worker that died; no time at all at first."""

    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, most_seconds=30.0))
    died_young: bool = False

    def after(self, lived_seconds: float) -> float:
        young = lived_seconds < _LONG_LIFE_SECONDS
        again = young and self.died_young
        self.died_young = young
        if not again:
            self.backoff.reset()
            return 0.0
        return self.backoff.next()


class Supervisor:
    """Keeps a number of worker processes alive.

    Args:
        command: A worker's program and arguments; `--link FD` is added.
        processes: How many workers to keep alive.
        burst: Whether a worker that ends by itself is not replaced.
        grace_seconds: How long stopping workers let running tasks go on; a worker that is still
            there well after that is killed.
        on_ready: Called with the announcement of the first worker that is ready.
        changes: Yields when the application's files have changed; then all workers are replaced. A
            worker that could not even start is replaced only after the next change.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        burst: bool,
        grace_seconds: float,
        on_ready: Callable[[Announcement], None],
        changes: AsyncIterable[object] | None = None,
    ) -> None:
        self._command = command
        self._processes = processes
        self._burst = burst
        self._grace_seconds = grace_seconds
        self._on_ready = on_ready
        self._changes = changes
        self._workers: set[_WorkerProcess] = set()
        self._any_was_ready = False
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._skipping_grace = False
        self._exit_code = 0

    @property
    def announcements(self) -> list[Announcement]:
        """The announcements of the workers that are ready; may be read in any thread."""
        return [worker.announcement for worker in tuple(self._workers) if worker.announcement]

    async def run(self) -> int:
        """Run until stopped, or until every worker has ended by itself (`--burst`).

        Returns:
            The exit code: 0, or the code of a worker that failed for good.
        """
        loop = asyncio.get_running_loop()
        for number in _handled():
            times = 2 if number in signals.STOP_NOW else 1
            loop.add_signal_handler(number, self._stop_times, times)
        keeping = asyncio.gather(*(self._keep_one() for _ in range(self._processes)))
        reloading = asyncio.ensure_future(self._reload())
        try:
            await asyncio.wait((keeping, reloading), return_when=asyncio.FIRST_COMPLETED)
            if reloading.done():
                reloading.result()
            await keeping
        finally:
            reloading.cancel()
            for number in _handled():
                loop.remove_signal_handler(number)
        return self._exit_code

    def stop(self) -> None:
        """Stop gracefully; a second call skips the workers' grace time."""
        order = NOW if self._stopping.is_set() else STOP
        self._skipping_grace = order == NOW
        self._stopping.set()
        self._changed.set()
        for worker in self._workers:
            self._end(worker, order)

    def _stop_times(self, times: int) -> None:
        for _ in range(times):
            self.stop()

    def _end(self, worker: _WorkerProcess, order: bytes) -> None:
        worker.tell(order)
        grace = 0.0 if order == NOW else self._grace_seconds
        asyncio.get_running_loop().call_later(grace + _MARGIN_SECONDS, worker.kill)

    async def _keep_one(self) -> None:
        """Start one worker after another until no more are wanted."""
        pauses, is_first = _Pauses(), True
        while not self._stopping.is_set():
            worker = await self._start()
            code = await self._ended(worker)
            if code != 0 and not worker.refused:
                await self._release(worker)
            if self._was_last(worker, code, is_first):
                return
            is_first = False
            if code != 0 and not worker.retiring:
                await self._wait_for_next(worker, code, pauses)

    def _was_last(self, worker: _WorkerProcess, code: int, is_first: bool) -> bool:
        """Whether no worker follows this one; if so, note the exit code."""
        if self._stopping.is_set():
            # A service manager's signal may have hit a worker that had only just started.
            ended_by_stop = code == 0 or -code in (*signals.STOP, *signals.STOP_NOW)
            self._exit_code = self._exit_code or (0 if ended_by_stop else 1)
            return True
        if code == 0:
            return self._burst and not worker.retiring
        never_worked = not self._any_was_ready or (worker.refused and is_first)
        if self._changes or not never_worked:
            return False
        # Another start would only fail the same way.
        self._exit_code = code if code > 0 else 1
        self.stop()
        return True

    async def _wait_for_next(self, worker: _WorkerProcess, code: int, pauses: _Pauses) -> None:
        if self._changes and worker.announcement is None:
            await self._changed.wait()
            return
        seconds = pauses.after(worker.lived_seconds)
        logger.error(
            "worker process died, starting another",
            extra={"worker_pid": worker.process.pid, "exit_code": code, "pause_seconds": seconds},
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _start(self) -> _WorkerProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "--link",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                # Let Ctrl-C in the terminal reach only the parent, which passes it on.
                process_group=0,
            )
        worker = _WorkerProcess(process, *await asyncio.open_unix_connection(sock=ours))
        self._workers.add(worker)
        if self._stopping.is_set():
            self._end(worker, NOW if self._skipping_grace else STOP)
        return worker

    async def _ended(self, worker: _WorkerProcess) -> int:
        """Wait for the worker's announcement, then for its end; return its exit code."""
        worker.announcement = await read_announcement(worker.reader)
        if worker.announcement and not self._any_was_ready:
            self._any_was_ready = True
            self._on_ready(worker.announcement)
        code = await worker.process.wait()
        worker.refused = code > 0 and await was_refused(worker.reader)
        worker.lived_seconds = time.monotonic() - worker.started_at
        self._workers.discard(worker)
        worker.writer.close()
        return code

    async def _release(self, worker: _WorkerProcess) -> None:
        """Hand whatever a dead worker was running to others at once."""
        if (announcement := worker.announcement) is None:
            return
        broker = open_broker(announcement.config)
        try:
            await broker.release_worker(announcement.worker_id, announcement.queues)
        except BrokerError as e:
            logger.warning("leases of a dead worker run out by themselves", extra={"reason": e})
        finally:
            await broker.close()

    async def _reload(self) -> None:
        if self._changes is None:
            return
        async for _ in self._changes:
            for worker in self._workers:
                worker.retiring = True
                self._end(worker, STOP)
            self._changed.set()
            self._changed.clear()


def _handled() -> Sequence[signal.Signals]:
    """The signals to handle; not SIGHUP if it is ignored, as under `nohup`.

    A shell without job control starts what is in the background with SIGINT and SIGQUIT ignored;
    whoever sends these means them.
    """
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = (*signals.STOP, *signals.STOP_NOW)
    return [n for n in numbers if not (n == signal.SIGHUP and is_nohup)]


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker process running under this interpreter."""
    return [sys.executable, "-m", "asynctasq", "worker", *arguments]
