"""The services for schedules: one makes their ticks, the other reports which the code declares.

Owns the rule that an application without schedules pays only one small read every few seconds.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b

from ..errors import BrokerError, BrokerUnavailable
from ..sending.schedule_values import Scheduled
from ..sending.schedules import Kept, Schedules

logger = logging.getLogger(__name__)

#: Time between two looks for changes; the second is for an application without schedules.
_LOOK_SECONDS, _SELDOM_SECONDS = 1.0, 5.0

#: Time between two full reads, which find changes that a killed process did not announce, and
#: schedules that no worker declares any more.
_READ_SECONDS = 10.0

#: How long a declared schedule lives after the last worker that declares it, and how often workers
#: declare it.
_DECLARED_SECONDS, _DECLARING_SECONDS = 30.0, 5.0

#: After so many turns, what the broker holds of the declared schedules is checked although nothing
#: seems to have changed, as a killed process may not have announced its change.
_TURNS_TO_CHECK = 6

#: Maximum schedules that one turn advances, so that the lease is renewed in between.
_MOST_IN_TURN = 500


class Ticking:
    """Makes the ticks of all schedules.

    Args:
        schedules: The broker's schedules.
        has_declared: Whether this worker's code declares any.
        clock: Gives Unix time in seconds.
        monotonic: Gives monotonic seconds.
    """

    name = "schedules"

    def __init__(
        self,
        schedules: Schedules,
        has_declared: bool,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval_seconds = _LOOK_SECONDS
        self._schedules = schedules
        self._has_declared = has_declared
        self._clock, self._monotonic = clock, monotonic
        self._kept: dict[str, Kept] = {}
        self._live: frozenset[str] = frozenset()
        self._ticks: list[tuple[int, str]] = []
        self._changed: bytes | None = None
        self._read_at = float("-inf")

    async def is_needed(self) -> bool:
        """Whether there are, or have been, any schedules."""
        is_needed = self._has_declared or await self._schedules.changed() is not None
        self.interval_seconds = _LOOK_SECONDS if is_needed else _SELDOM_SECONDS
        return is_needed

    async def turn(self) -> None:
        """Make the ticks that are due."""
        try:
            await self._read()
            await self._make_due()
        except BaseException:
            self._read_at = float("-inf")  # read everything again, since a change may be half done
            raise
        due = (self._ticks[0][0] - self._now()) / 1000 if self._ticks else _LOOK_SECONDS
        self.interval_seconds = min(max(due, 0.0), _LOOK_SECONDS)

    async def _make_due(self) -> None:
        moved = 0
        while self._ticks and self._ticks[0][0] <= self._now() and moved < _MOST_IN_TURN:
            _, name = heapq.heappop(self._ticks)
            moved += 1
            try:
                await self._move_on(name)
            except BrokerUnavailable:
                raise
            except BrokerError as e:  # skip it until the next full read, so that others go on
                fields = {"schedule": name, "error": str(e)}
                logger.error("the broker refuses a schedule's call", extra=fields)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def _read(self) -> None:
        changed = await self._schedules.changed()
        is_time = self._monotonic() - self._read_at >= _READ_SECONDS
        if changed == self._changed and not is_time:
            return
        declared = await self._schedules.declared()
        self._live = frozenset[str]().union(*declared.values())
        self._kept = await self._schedules.all(self._kept)
        await self._forget_undeclared()
        self._changed, self._read_at = changed, self._monotonic()
        ticks = ((self._next(kept.scheduled), name) for name, kept in self._kept.items())
        self._ticks = [(tick, name) for tick, name in ticks if tick is not None]
        heapq.heapify(self._ticks)

    def _next(self, scheduled: Scheduled) -> int | None:
        return None if self._is_stale(scheduled) else scheduled.next

    async def _forget_undeclared(self) -> None:
        """Remove schedules whose code is gone, but not merely because no workers ran overnight."""
        stale = [name for name, kept in self._kept.items() if self._is_stale(kept.scheduled)]
        if stale:
            lately = await self._schedules.declared_lately()
            for name in [name for name in stale if name not in lately]:
                await self._schedules.remove(name)
                del self._kept[name]

    def _is_stale(self, scheduled: Scheduled) -> bool:
        return scheduled.definition.is_declared and scheduled.name not in self._live

    async def _move_on(self, name: str) -> None:
        kept = self._kept.pop(name)
        now = self._now()
        ticks, after = kept.scheduled.due(now)
        advanced = await self._schedules.advance(kept, after, ticks)
        if advanced is None:
            found = await self._schedules.get(name)
            if found is None:
                return
            advanced = found
        elif after.is_over:
            await self._schedules.forget(name, kept.place)
            return
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("schedule ticked", extra={"schedule": name, "calls": len(ticks)})
        self._kept[name] = advanced
        if (tick := self._next(advanced.scheduled)) is not None:
            heapq.heappush(self._ticks, (tick, name))


class Declaring:
    """Stores the schedules that this worker's code declares, and reports that they are declared.

    Workers with the same code share one lease. If two versions of the code declare a schedule
    differently, the process that started last wins; the other definition returns only when no
    worker runs the winner's code any more.

    Args:
        schedules: The broker's schedules.
        declared: What the code declares.
        since: When this process started, in milliseconds since 1970.
    """

    def __init__(self, schedules: Schedules, declared: Sequence[Scheduled], since: int) -> None:
        self.interval_seconds = _DECLARING_SECONDS
        self._schedules = schedules
        origin = _origin(declared)
        self.name = f"schedules-{origin}"
        self._origin = origin
        self._declared = [replace(one, origin=origin, since=since) for one in declared]
        self._seen: tuple[bytes | None, frozenset[str]] | None = None
        self._turns = 0

    async def turn(self) -> None:
        """Report the declarations, and correct what the broker holds."""
        names = [scheduled.name for scheduled in self._declared]
        await self._schedules.declare(self._origin, names, _DECLARED_SECONDS)
        live = await self._schedules.declared()
        seen = (await self._schedules.changed(), frozenset(live))
        self._turns += 1
        if seen == self._seen and self._turns % _TURNS_TO_CHECK:
            return
        for scheduled in self._declared:
            kept = await self._schedules.get(scheduled.name)
            if kept is None or self._has_its_way(scheduled, kept.scheduled, live.keys()):
                await self._schedules.put(scheduled)
        self._seen = seen

    def _has_its_way(self, mine: Scheduled, there: Scheduled, live: Iterable[str]) -> bool:
        if there.definition == mine.definition:
            return False
        return there.since < mine.since or there.origin not in live


def _origin(declared: Sequence[Scheduled]) -> str:
    """A digest that identifies these definitions."""
    digest = blake2b(digest_size=12)
    for scheduled in declared:
        digest.update(replace(scheduled, last=0).encode(()))
    return digest.hexdigest()
