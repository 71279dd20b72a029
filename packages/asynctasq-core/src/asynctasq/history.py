"""The last hour: what the workers ran, minute by minute, kept in the broker.

Owns the rule that it stays small: an hour is sixty values, whatever runs. Each minute has its own
value, to which every worker adds by compare-and-set; an hour later the next minute reuses it. The
counts are for people: if the broker's answer is lost, the same runs are counted twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from math import isfinite
from threading import Lock
from time import time
from typing import Any

import msgpack

from .app import current
from .brokers import Broker, Remembering
from .errors import BrokerError
from .events import RunFailed, RunPostponed, RunSkipped, RunSucceeded, listen, unlisten

logger = logging.getLogger(__name__)

#: Number of minutes to keep.
MINUTES = 60

#: Maximum number of tasks, each with its queue, in a minute; the rest share this name.
MOST_TASKS, OTHER = 40, "(other)"

#: Maximum length of a task's or a queue's name, in characters.
_NAME_LENGTH = 100

#: How often a worker writes its counts to the broker.
INTERVAL_SECONDS = 5.0

#: Number of tries when other workers write at the same moment.
_MOST_TRIES = 30

_QUEUE, _KIND = "default", "history"

_Run = RunSucceeded | RunSkipped | RunFailed | RunPostponed
_KINDS: tuple[type[Any], ...] = (RunSucceeded, RunSkipped, RunFailed, RunPostponed)


@dataclass(slots=True)
class Counts:
    """Counts and times of the runs of one task.

    Attributes:
        succeeded: Runs that returned, or were skipped because a row is gone.
        retried: Runs that failed and will run again.
        dead: Calls that were given up.
        postponed: Runs that were postponed without using up an attempt.
        late_seconds: Total delay between when runs were due and when they began.
        latest_seconds: The longest such delay.
        run_seconds: Total time that runs took.
        longest_seconds: The time of the longest run.
    """

    succeeded: int = 0
    retried: int = 0
    dead: int = 0
    postponed: int = 0
    late_seconds: float = 0.0
    latest_seconds: float = 0.0
    run_seconds: float = 0.0
    longest_seconds: float = 0.0

    @property
    def runs(self) -> int:
        """The number of all runs."""
        return self.succeeded + self.retried + self.dead + self.postponed

    def count(self, event: _Run) -> None:
        """Count a run."""
        due = event.enqueued_at if event.due is None else event.due
        if event.enqueued_at and (late := event.started_at - due) > 0:
            # A message that cannot run never began.
            self.late_seconds += late
            self.latest_seconds = max(self.latest_seconds, late)
        if (took := event.at - event.started_at) > 0:
            self.run_seconds += took
            self.longest_seconds = max(self.longest_seconds, took)
        if isinstance(event, RunFailed):
            self.retried += event.will_retry
            self.dead += not event.will_retry
        elif isinstance(event, RunPostponed):
            self.postponed += 1
        else:
            self.succeeded += 1

    def add(self, other: Counts) -> None:
        """Add these counts."""
        self.succeeded += other.succeeded
        self.retried += other.retried
        self.dead += other.dead
        self.postponed += other.postponed
        self.late_seconds += other.late_seconds
        self.latest_seconds = max(self.latest_seconds, other.latest_seconds)
        self.run_seconds += other.run_seconds
        self.longest_seconds = max(self.longest_seconds, other.longest_seconds)


#: Counts by the names of task and queue.
Rows = dict[tuple[str, str], Counts]


@dataclass(frozen=True, slots=True)
class Minute:
    """A minute in which something ran.

    Attributes:
        at: When it began, Unix time in seconds.
        rows: Counts by the names of task and queue.
    """

    at: int
    rows: Mapping[tuple[str, str], Counts]


async def minutes() -> list[Minute] | None:
    """The minutes of the last hour in which something ran, in order.

    Returns:
        `None` if the broker remembers nothing.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    broker = current().open_broker()
    if not isinstance(broker, Remembering):
        return None
    now = _minute(time())
    found = [_decode(value) for value in (await broker.values(_QUEUE, _KIND)).values()]
    kept = [(minute, rows) for minute, rows in found if now - MINUTES < minute <= now + 1]
    return [Minute(minute * 60, rows) for minute, rows in sorted(kept, key=lambda one: one[0])]


class Recording:
    """Counts the runs of this process, and regularly writes the counts to the broker."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counted: dict[int, Rows] = {}
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start on the running event loop; does nothing if the broker keeps no values."""
        broker = current().open_broker()
        if isinstance(broker, Remembering):
            listen(self.note, *_KINDS)
            self._writing = asyncio.create_task(self._write(broker))

    async def stop(self) -> None:
        """Write the counts, and stop counting."""
        if self._writing is None:
            return
        unlisten(self.note)
        self._writing.cancel()
        with suppress(asyncio.CancelledError):
            await self._writing
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(INTERVAL_SECONDS):
                await self.write()

    def note(self, event: _Run) -> None:
        """Count a run; called in a thread of its own."""
        minute = _minute(event.at)
        with self._lock:
            rows = self._counted.get(minute)
            if rows is None:
                rows = self._counted[minute] = {}
                if len(self._counted) > MINUTES:  # the broker has been away for an hour
                    del self._counted[min(self._counted)]
            _of(rows, _names(event)).count(event)

    async def write(self) -> None:
        """Write the counts to the broker.

        Raises:
            BrokerUnavailable: The counts are kept for the next write.
        """
        broker = current().open_broker()
        assert isinstance(broker, Remembering)
        with self._lock:
            counted, self._counted = self._counted, {}
        for minute in sorted(counted):
            try:
                await _merge(broker, minute, counted[minute])
            except BaseException:
                self._put_back(counted)
                raise
            del counted[minute]

    def _put_back(self, counted: dict[int, Rows]) -> None:
        with self._lock:
            for minute, rows in counted.items():
                for names, counts in rows.items():
                    _add(self._counted.setdefault(minute, {}), names, counts)

    async def _write(self, broker: Broker) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.write()
            except BrokerError as e:
                logger.debug("the history waits for the broker: %s", e)


async def _merge(broker: Remembering, minute: int, rows: Rows) -> None:
    name = str(minute % MINUTES)
    for _ in range(_MOST_TRIES):
        before = await broker.value(_QUEUE, _KIND, name)
        kept_minute, kept = _decode(before) if before is not None else (minute, {})
        if kept_minute > minute:
            return  # an hour late
        merged: Rows = kept if kept_minute == minute else {}
        for names, counts in rows.items():
            _add(merged, names, counts)
        value = _encode(minute, merged)
        if await broker.replace_value(_QUEUE, _KIND, name, value, expected=before):
            return
        await asyncio.sleep(random.uniform(0, 0.1))
    logger.debug("too many workers write the history at once")


def _add(rows: Rows, names: tuple[str, str], counts: Counts) -> None:
    _of(rows, names).add(counts)


def _of(rows: Rows, names: tuple[str, str]) -> Counts:
    """The counts of a task, or the shared counts if there are too many tasks."""
    counts = rows.get(names)
    if counts is None:
        if len(rows) >= MOST_TASKS:
            names = (OTHER, OTHER)
        counts = rows.setdefault(names, Counts())
    return counts


def _minute(seconds: float) -> int:
    return int(seconds // 60)


def _names(event: _Run) -> tuple[str, str]:
    return (event.task or "(unreadable)")[:_NAME_LENGTH], event.queue[:_NAME_LENGTH]


def _encode(minute: int, rows: Rows) -> bytes:
    packed: bytes = msgpack.packb(
        [minute, [[*names, *astuple(counts)] for names, counts in rows.items()]],
        unicode_errors="backslashreplace",
    )
    return packed


def _decode(value: bytes) -> tuple[int, Rows]:
    """Decode a written minute; an empty one if the broker holds something else there."""
    try:
        minute, lines = msgpack.unpackb(value, max_array_len=1000)
        rows = dict(map(_row, lines))
    except (ValueError, TypeError, msgpack.UnpackException):
        return 0, {}
    return (minute, rows) if type(minute) is int else (0, {})


def _row(line: Any) -> tuple[tuple[str, str], Counts]:
    task, queue, *numbers = line
    if type(task) is not str or type(queue) is not str or not _are_counts(numbers):
        raise ValueError
    return (task, queue), Counts(*numbers)


def _are_counts(numbers: Iterable[Any]) -> bool:
    return all(type(n) in (int, float) and isfinite(n) and 0 <= n < 2**53 for n in numbers)
