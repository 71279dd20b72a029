"""A schedule as stored in the broker, and the messages that its ticks make.

Owns two rules: the last tick made only grows, whatever the clock says; and the id of a tick's
message is derived from the schedule's name and the tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from hashlib import blake2b
from typing import Any

import msgpack

from ..brokers import LimitKey, Outgoing, Policy, RateKey, UniqueKey
from ..errors import InvalidMessage
from ..tasks.schedule import CatchUp, check_catch_up
from ..tasks.timetable import Once, Timetable, timetable_of
from ..wire.message import Message, new_id, sign, verify

_VERSION = 1
_PURPOSE = b"asynctasq-sched"

#: A tick made later than this counts as missed: no worker was there for it.
_LATE_MS = 60_000

#: Maximum number of ticks that one step makes.
_MOST_AT_ONCE = 100

_LIMITS = {"max_array_len": 64, "max_map_len": 1000, "max_ext_len": 0}


@dataclass(frozen=True, slots=True)
class Template:
    """What the messages of a schedule have in common.

    Attributes:
        payload: The encoded arguments.
        options, headers: As in `Message`.
        priority, policy: As in `Outgoing`.
    """

    queue: str
    task: str
    payload: bytes
    options: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    policy: Policy | None = None

    def message(self, message_id: str, at_ms: int, keys: Sequence[bytes]) -> Outgoing:
        """The message for one call."""
        message = Message(
            message_id,
            self.task,
            self.payload,
            at_ms / 1000,
            options=self.options,
            headers=self.headers,
        )
        body = message.encode(keys)
        return Outgoing(self.queue, message_id, body, None, self.priority, self.policy)


@dataclass(frozen=True, slots=True)
class Definition:
    """What is called, and when.

    Attributes:
        is_declared: Whether a task declares it, so that it disappears with the code.
    """

    template: Template
    timetable: Timetable
    catch_up: CatchUp
    is_declared: bool = False


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule and how far it has come.

    Attributes:
        last: The last tick made or skipped; before the first one, when it was scheduled. In
            milliseconds since 1970.
        origin: For a declared schedule, a digest of the declaring code's schedules.
        since: For a declared schedule, when the declaring process started, in milliseconds since
            1970.
    """

    name: str
    definition: Definition
    last: int
    is_paused: bool = False
    origin: str = ""
    since: int = 0

    @property
    def next(self) -> int | None:
        """The next tick to make; `None` if it is paused or has none left."""
        return None if self.is_paused else self.definition.timetable.next_after(self.last)

    @property
    def is_over(self) -> bool:
        """Whether there is no tick left."""
        return self.definition.timetable.next_after(self.last) is None

    def due(self, now: int) -> tuple[list[int], Scheduled]:
        """The ticks to make now, up to a maximum, and the schedule after them."""
        table, catch_up = self.definition.timetable, self.definition.catch_up
        tick = self.next
        if tick is None or tick > now:
            return [], self
        if catch_up == "all":
            ticks: list[int] = []
            while tick is not None and tick <= now and len(ticks) < _MOST_AT_ONCE:
                ticks.append(tick)
                tick = table.next_after(tick)
            return ticks, replace(self, last=ticks[-1])
        last = table.latest(self.last, now)
        is_missed = catch_up == "none" and now - last > _LATE_MS and not isinstance(table, Once)
        return [] if is_missed else [last], replace(self, last=last)

    def messages(self, ticks: Sequence[int], keys: Sequence[bytes]) -> list[Outgoing]:
        """The calls of these ticks."""
        template = self.definition.template
        return [template.message(tick_id(self.name, tick), tick, keys) for tick in ticks]

    def call_now(self, now: int, keys: Sequence[bytes]) -> Outgoing:
        """An extra call, besides those of its ticks."""
        return self.definition.template.message(new_id(), now, keys)

    def following(self, before: Scheduled | None) -> Scheduled:
        """This schedule as the successor of one with its name, so that no tick is repeated."""
        if before is None:
            return self
        table = self.definition.timetable
        if before.definition.timetable == table:
            last = before.last
        else:
            last = self.last if isinstance(table, Once) else max(before.last, self.last)
        return replace(self, last=last, is_paused=before.is_paused)

    def encode(self, keys: Sequence[bytes]) -> bytes:
        """The bytes for the broker, signed like messages."""
        definition, template = self.definition, self.definition.template
        policy = template.policy
        parts = (
            _VERSION,
            self.name,
            self.last,
            self.is_paused,
            self.origin,
            self.since,
            definition.timetable.parts(),
            definition.catch_up,
            definition.is_declared,
            template.queue,
            template.task,
            template.payload,
            template.options,
            template.headers,
            template.priority,
            None if policy is None else astuple(policy),
        )
        packed: bytes = msgpack.packb(parts)
        return sign(packed, keys, _PURPOSE)


def tick_id(name: str, tick: int) -> str:
    """The id of a tick's message: its time first, as in `new_id`."""
    digest = blake2b(f"{tick} {name}".encode(), digest_size=10, person=_PURPOSE)
    return f"{tick:012x}{digest.hexdigest()}"


def decode(value: bytes, name: str, queue: str, keys: Sequence[bytes]) -> Scheduled:
    """The schedule in these bytes.

    Raises:
        BadSignature: It is unsigned, or signed with another key.
        InvalidMessage: It is anything else than the schedule of this name and queue.
    """
    packed = verify(value, keys, _PURPOSE)
    try:
        version, *parts = msgpack.unpackb(packed, **_LIMITS)
        if version != _VERSION:
            raise ValueError(f"version {version!r:.20}")
        found = _decoded(*parts)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as e:
        raise InvalidMessage(f"the broker holds a damaged schedule {name!r:.200}: {e}") from e
    if (found.name, found.definition.template.queue) != (name, queue):
        raise InvalidMessage(f"the broker holds another schedule as {name!r:.200}")
    return found


def _decoded(
    name: str,
    last: int,
    is_paused: bool,
    origin: str,
    since: int,
    timetable: list[Any],
    catch_up: CatchUp,
    is_declared: bool,
    queue: str,
    task: str,
    payload: bytes,
    options: dict[str, Any],
    headers: dict[str, str],
    priority: int,
    policy: list[Any] | None,
) -> Scheduled:
    if [type(last), type(since), type(priority)] != [int, int, int]:
        raise TypeError("a number is none")
    if type(task) is not str or type(payload) is not bytes or type(options) is not dict:
        raise TypeError("a part of the message is none")
    if not all(type(text) is str for header in headers.items() for text in header):
        raise TypeError("a header is not text")
    check_catch_up(catch_up)
    template = Template(queue, task, payload, options, headers, priority, _policy(policy))
    definition = Definition(template, timetable_of(timetable), catch_up, bool(is_declared))
    return Scheduled(name, definition, last, bool(is_paused), origin, since)


def _policy(parts: list[Any] | None) -> Policy | None:
    if parts is None:
        return None
    unique, limit, rate = parts
    return Policy(
        UniqueKey(*unique) if unique else None,
        LimitKey(*limit) if limit else None,
        RateKey(*rate) if rate else None,
    )
