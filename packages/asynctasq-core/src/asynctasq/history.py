"""The last hour: what the workers ran, minute by minute, kept in the broker.

Owns the rule that it stays small: an hour is sixty values, whatever runs. Each minute has a value
of its own, in which every worker counts by compare-and-set; the minute an hour later takes its
place. The counts are for people: where the broker's answer is lost, what it was told is counted
twice.
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

#: How many minutes are kept.
MINUTES = 60

#: Tasks of a minute, each with its queue; the others are counted together under this name.
MOST_TASKS, OTHER = 40, "(other)"

#: The longest name of a task or a queue, in characters.
_NAME_LENGTH = 100

#: How often a worker writes down what it has counted.
INTERVAL_SECONDS = 5.0

#: How often it tries again when other workers write at the same moment.
_MOST_TRIES = 30

_QUEUE, _KIND = "default", "history"

_Run = RunSucceeded | RunSkipped | RunFailed | RunPostponed
_KINDS: tuple[type[Any], ...] = (RunSucceeded, RunSkipped, RunFailed, RunPostponed)


@dataclass(slots=True)
class Counts:
    """What the runs of one task were like.

    Attributes:
        succeeded: Runs that returned, or were passed over since a row is gone.
        retried: Runs that failed and come again.
        dead: Calls that were given up.
        postponed: Runs that were put off without using up an attempt.
        late_seconds: How long after they were due all of them began, together.
        latest_seconds: The latest of them.
        run_seconds: How long all of them took, together.
        longest_seconds: The longest of them.
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
        """All runs."""
        return self.succeeded + self.retried + self.dead + self.postponed

    def add(self, other: Counts) -> None:
        """Count these, too."""
        self.succeeded += other.succeeded
        self.retried += other.retried
        self.dead += other.dead
        self.postponed += other.postponed
        self.late_seconds += other.late_seconds
        self.latest_seconds = max(self.latest_seconds, other.latest_seconds)
        self.run_seconds += other.run_seconds
        self.longest_seconds = max(self.longest_seconds, other.longest_seconds)


#: Counts by names of task and queue.
Rows = dict[tuple[str, str], Counts]


@dataclass(frozen=True, slots=True)
class Minute:
    """A minute in which something ran.

    Attributes:
        at: Its beginning, Unix time in seconds.
        rows: By names of task and queue.
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
    """Counts the runs of this process, and writes them down again and again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counted: dict[int, Rows] = {}
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop; on a broker that does not remember, do nothing."""
        broker = current().open_broker()
        if isinstance(broker, Remembering):
            listen(self.note, *_KINDS)
            self._writing = asyncio.create_task(self._write(broker))

    async def stop(self) -> None:
        """Write down what is counted, and count no more."""
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
        counts = _counts(event)
        with self._lock:
            _add(self._counted.setdefault(_minute(event.at), {}), _names(event), counts)
            while len(self._counted) > MINUTES:  # the broker is away for an hour
                del self._counted[min(self._counted)]

    async def write(self) -> None:
        """Write down what has been counted.

        Raises:
            BrokerUnavailable: It is kept, and written the next time.
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
    if names not in rows:
        if len(rows) >= MOST_TASKS:
            names = (OTHER, OTHER)
        rows.setdefault(names, Counts())
    rows[names].add(counts)


def _minute(seconds: float) -> int:
    return int(seconds // 60)


def _names(event: _Run) -> tuple[str, str]:
    return (event.task or "(unreadable)")[:_NAME_LENGTH], event.queue[:_NAME_LENGTH]


def _counts(event: _Run) -> Counts:
    due = event.enqueued_at if event.due is None else event.due
    # What cannot be run never began.
    late = max(0.0, event.started_at - due) if event.enqueued_at else 0.0
    took = max(0.0, event.at - event.started_at)
    counts = Counts(late_seconds=late, latest_seconds=late, run_seconds=took, longest_seconds=took)
    if isinstance(event, RunFailed):
        counts.retried, counts.dead = int(event.will_retry), int(not event.will_retry)
    elif isinstance(event, RunPostponed):
        counts.postponed = 1
    else:
        counts.succeeded = 1
    return counts


def _encode(minute: int, rows: Rows) -> bytes:
    packed: bytes = msgpack.packb(
        [minute, [[*names, *astuple(counts)] for names, counts in rows.items()]],
        unicode_errors="backslashreplace",
    )
    return packed


def _decode(value: bytes) -> tuple[int, Rows]:
    """What was written; nothing, in no minute, if the broker holds something else there."""
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
