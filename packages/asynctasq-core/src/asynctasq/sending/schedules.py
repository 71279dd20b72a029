"""Stores schedules in the broker: puts, changes and removes them, and makes their ticks.

Owns the rule that each change is a compare-and-set of the schedule's single value, so that of a
tick and a change, or of the same tick made by two leaders, only one can succeed.

A schedule's value belongs to the queue of its calls, so that a tick and its message are one step.
An index tells which queue that is; a value that the index does not name does not count.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgpack

from ..brokers import Broker, Outgoing, Remembering
from ..errors import ConfigurationError, MessageError
from .schedule_values import Scheduled, decode

logger = logging.getLogger(__name__)

#: The queue that holds the index and whatever else belongs to no single schedule.
_QUEUE = "default"
_INDEX, _SCHEDULE, _CHANGED = "schedules", "schedule", "schedules-changed"
_DECLARED, _DECLARED_LATELY = "schedules-declared", "schedules-declared-lately"

#: How long to keep a schedule, with its progress, after the last code that declares it is gone.
_FORGET_SECONDS = 7 * 86_400.0

#: Random bytes before the queue's name in the index, which tell two puts of a name apart.
_MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Kept:
    """A schedule as it was read.

    Attributes:
        place: Its entry in the index.
        value: Its bytes.
    """

    place: bytes
    value: bytes
    scheduled: Scheduled


class Schedules:
    """The schedules in a broker.

    Args:
        broker: A broker that is `Remembering`.
        keys: The application's signing keys.

    Raises:
        ConfigurationError: The broker is not `Remembering`.
    """

    def __init__(self, broker: Broker, keys: Sequence[bytes]) -> None:
        if not isinstance(broker, Remembering):
            raise ConfigurationError(f"{broker.describe()} cannot keep schedules")
        self._broker: Remembering = broker
        self._keys = keys

    # --- reading ------------------------------------------------------------------------

    async def changed(self) -> bytes | None:
        """Differs after each change that others must see; `None` if there never was a schedule."""
        return await self._broker.value(_QUEUE, _CHANGED, "")

    async def all(self, known: Mapping[str, Kept]) -> dict[str, Kept]:
        """All schedules by name; those unchanged since `known` are not decoded again."""
        index = await self._broker.values(_QUEUE, _INDEX)
        queues = {_queue(place) for place in index.values()}
        values = {queue: await self._broker.values(queue, _SCHEDULE) for queue in queues}
        found: dict[str, Kept] = {}
        for name, place in index.items():
            value = values[_queue(place)].get(name)
            before = known.get(name)
            if before is not None and (before.place, before.value) == (place, value):
                found[name] = before
            elif value is not None and (kept := self._kept(name, place, value)) is not None:
                found[name] = kept
        return found

    async def get(self, name: str) -> Kept | None:
        """One schedule."""
        place = await self._broker.value(_QUEUE, _INDEX, name)
        value = place and await self._broker.value(_queue(place), _SCHEDULE, name)
        return self._kept(name, place, value) if place and value is not None else None

    def _kept(self, name: str, place: bytes, value: bytes) -> Kept | None:
        try:
            return Kept(place, value, decode(value, name, _queue(place), self._keys))
        except MessageError as e:
            logger.error("a schedule cannot be read: %s", e, extra={"schedule": name})
            return None

    # --- changing -----------------------------------------------------------------------

    async def put(self, scheduled: Scheduled) -> None:
        """Store a schedule, replacing one of the same name."""
        name, queue = scheduled.name, scheduled.definition.template.queue
        place = await self._broker.value(_QUEUE, _INDEX, name)
        if place is not None and _queue(place) != queue:
            # First make sure that no tick can be made in the old queue.
            before = await self._take_away(name, place)
            scheduled = scheduled.following(before)
        place = os.urandom(_MARK_BYTES) + queue.encode()
        await self._broker.set_value(_QUEUE, _INDEX, name, place)
        is_put = False
        while not is_put:
            value = await self._broker.value(queue, _SCHEDULE, name)
            kept = None if value is None else self._kept(name, place, value)
            following = scheduled.following(kept.scheduled if kept else None)
            is_put = await self._broker.replace_value(
                queue, _SCHEDULE, name, following.encode(self._keys), expected=value
            )
        await self._tell()

    async def remove(self, name: str) -> bool:
        """Remove a schedule; return whether there was one."""
        place = await self._broker.value(_QUEUE, _INDEX, name)
        if place is None:
            return False
        before = await self._take_away(name, place)
        await self.forget(name, place)
        await self._tell()
        return before is not None

    async def change(self, name: str, change: Callable[[Scheduled], Scheduled]) -> bool:
        """Apply a change to a schedule; return whether there was one."""
        while (kept := await self.get(name)) is not None:
            if await self._replace(kept, change(kept.scheduled), ()):
                await self._tell()
                return True
        return False

    async def _take_away(self, name: str, place: bytes) -> Scheduled | None:
        queue = _queue(place)
        while (value := await self._broker.value(queue, _SCHEDULE, name)) is not None:
            if await self._broker.replace_value(queue, _SCHEDULE, name, None, expected=value):
                kept = self._kept(name, place, value)
                return kept.scheduled if kept else None
        return None

    async def forget(self, name: str, place: bytes) -> None:
        """Delete the index entry, unless the schedule was put again meanwhile."""
        await self._broker.replace_value(_QUEUE, _INDEX, name, None, expected=place)

    async def _tell(self) -> None:
        await self._broker.set_value(_QUEUE, _CHANGED, "", os.urandom(_MARK_BYTES))

    # --- ticking ------------------------------------------------------------------------

    async def advance(self, kept: Kept, after: Scheduled, ticks: Sequence[int]) -> Kept | None:
        """Make ticks and advance the schedule, in one step.

        Returns:
            The stored schedule; `None` if nothing was changed because it had changed meanwhile.
        """
        messages = after.messages(ticks, self._keys)
        if not await self._replace(kept, after, messages):
            return None
        return Kept(kept.place, after.encode(self._keys), after)

    async def _replace(self, kept: Kept, after: Scheduled, messages: Sequence[Outgoing]) -> bool:
        return await self._broker.replace_value(
            after.definition.template.queue,
            _SCHEDULE,
            after.name,
            None if after.is_over else after.encode(self._keys),
            expected=kept.value,
            messages=messages,
        )

    # --- declaring ----------------------------------------------------------------------

    async def declare(self, origin: str, names: Sequence[str], ttl_seconds: float) -> None:
        """Say that a worker whose code declares these schedules lives."""
        value: bytes = msgpack.packb([*names])
        for kind, ttl in ((_DECLARED_LATELY, _FORGET_SECONDS), (_DECLARED, ttl_seconds)):
            await self._broker.set_value(_QUEUE, kind, origin, value, ttl_seconds=ttl)

    async def declared(self) -> dict[str, frozenset[str]]:
        """Names of schedules by what stands for the code that declares them, of live workers."""
        values = await self._broker.values(_QUEUE, _DECLARED)
        return {origin: _names(value) for origin, value in values.items()}

    async def declared_lately(self) -> frozenset[str]:
        """Names of the schedules that some code has declared within a week."""
        values = await self._broker.values(_QUEUE, _DECLARED_LATELY)
        return frozenset[str]().union(*map(_names, values.values()))


def _queue(place: bytes) -> str:
    return place[_MARK_BYTES:].decode(errors="replace")


def _names(value: bytes) -> frozenset[str]:
    try:
        return frozenset(name for name in msgpack.unpackb(value) if isinstance(name, str))
    except (ValueError, TypeError, msgpack.UnpackException):
        return frozenset()
