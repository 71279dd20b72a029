"""The one thread of a broker that touches its queue file, so that no event loop waits for a disk.

Between jobs, while anyone waits for messages or results, it checks whether another connection has
committed, with `PRAGMA data_version`, which runs no query. If no one waits, it sleeps. Each check
costs an idle process 0.1 ms, so it checks half as often once nothing has changed for a second.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from sqlite3 import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

from ...errors import BrokerError
from ..waiters import Waiters
from .awaited_results import AwaitedResults
from .awaited_values import AwaitedValues
from .config import SQLiteConfig
from .file import SQLiteFile

P = ParamSpec("P")
R = TypeVar("R")

QUIET_SECONDS = 1.0


@dataclass(slots=True)
class _Job:
    """Work for the thread; a job without `run` ends the thread."""

    run: Callable[[SQLiteFile], Any] | None
    future: asyncio.Future[Any]
    submitted: float

    def answer(self, result: Any, error: BaseException | None) -> None:
        try:
            self.future.get_loop().call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:  # the asking loop was closed, so no one is left to answer
            return

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class SQLiteThread:
    """Runs jobs one by one on one connection; starts on first use, and again after a fork."""

    _jobs: SimpleQueue[_Job] | None

    def __init__(self, config: SQLiteConfig) -> None:
        self._config = config
        self._forget()

    @property
    def takers(self) -> Waiters:
        """Calls to wake when messages may have become ready."""
        self._notice_fork()
        return self._takers

    @property
    def results(self) -> AwaitedResults:
        """Calls to answer when results were written."""
        self._notice_fork()
        return self._results

    @property
    def values(self) -> AwaitedValues:
        """Calls to answer when small values have changed."""
        self._notice_fork()
        return self._values

    async def write(
        self, transition: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a transition in one transaction; once begun, cancellation does not undo it.

        Raises:
            BrokerError: As in `SQLiteFile.transaction`.
        """

        def job(file: SQLiteFile) -> R:
            with file.transaction() as db:
                return transition(db, *args, **kwargs)

        return await self.run(job)

    async def read(
        self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a query on one snapshot.

        Raises:
            BrokerError: As in `SQLiteFile.snapshot`.
        """

        def job(file: SQLiteFile) -> R:
            with file.snapshot() as db:
                return query(db, *args, **kwargs)

        return await self.run(job)

    async def run(self, job: Callable[[SQLiteFile], R]) -> R:
        """Run a job with the thread's file."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._started().put(_Job(job, future, time.monotonic()))
        return await future

    async def close(self) -> None:
        """Close the connection and end the thread; the next job starts another."""
        self._notice_fork()
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            ended = asyncio.get_running_loop().create_future()
            jobs.put(_Job(None, ended, time.monotonic()))
            await ended

    def _started(self) -> SimpleQueue[_Job]:
        self._notice_fork()
        if self._jobs is None:
            self._jobs = SimpleQueue()
            worker = _Worker(self._config, self._jobs, self._takers, self._results, self._values)
            threading.Thread(target=worker.work, name="asynctasq-sqlite", daemon=True).start()
        return self._jobs

    def _notice_fork(self) -> None:
        """Start over after a fork: the thread and the waiting calls exist only in the parent."""
        if self._pid != os.getpid():
            self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._takers = Waiters()
        self._results = AwaitedResults()
        self._values = AwaitedValues()
        self._jobs = None


class _Worker:
    """The code that runs in the thread."""

    def __init__(
        self,
        config: SQLiteConfig,
        jobs: SimpleQueue[_Job],
        takers: Waiters,
        results: AwaitedResults,
        values: AwaitedValues,
    ) -> None:
        self._config = config
        self._jobs = jobs
        self._takers = takers
        self._results = results
        self._values = values
        self._file = SQLiteFile(config)
        self._waits_less = False
        self._version = -1
        self._looked = 0.0
        self._changed = 0.0

    def work(self) -> None:
        """Run jobs until one ends the thread; between jobs, look for changes."""
        while True:
            watching = bool(self._takers or self._results or self._values)
            interval = self._interval()
            try:
                job = self._jobs.get(timeout=interval if watching else None)
            except Empty:
                self._look()
                continue
            if job.run is None:
                self._file.close()
                job.answer(None, None)
                return
            self._do(job, job.run)
            if watching and time.monotonic() - self._looked >= interval:
                self._look()

    def _do(self, job: _Job, run: Callable[[SQLiteFile], Any]) -> None:
        try:
            self._limit_wait(time.monotonic() - job.submitted)
            result = run(self._file)
        except BaseException as e:  # noqa: BLE001 - whoever awaits the job gets it
            job.answer(None, e)
        else:
            job.answer(result, None)
        if self._results:
            self._answer_results()

    def _limit_wait(self, waited_seconds: float) -> None:
        """Shorten a job's wait for a locked file by the time it has already spent queued."""
        waited_long = waited_seconds > self._config.busy_timeout / 10
        if waited_long or self._waits_less:
            waited = waited_seconds if waited_long else 0.0
            self._file.allow_busy_seconds(self._config.busy_timeout - waited)
            self._waits_less = waited_long

    def _interval(self) -> float:
        quiet = time.monotonic() - self._changed > QUIET_SECONDS
        return self._config.poll_interval * (2 if quiet else 1)

    def _look(self) -> None:
        """Wake waiting calls if another connection has committed since the last look."""
        self._looked = time.monotonic()
        try:
            version = self._file.data_version()
        except BrokerError as e:
            self._takers.wake()  # they run into the error themselves
            self._fail(e)
            return
        if version != self._version:
            self._version, self._changed = version, self._looked
            self._takers.wake()
            self._answer_results(and_values=True)

    def _answer_results(self, *, and_values: bool = False) -> None:
        try:
            with self._file.snapshot() as db:
                self._results.look(db, self._file.times_opened)
                if and_values:
                    self._values.look(db)
        except BrokerError as e:
            self._fail(e)

    def _fail(self, error: BrokerError) -> None:
        self._results.fail(error)
        self._values.fail(error)
