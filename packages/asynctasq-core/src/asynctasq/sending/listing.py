"""Calls as their queues hold them, for people: read from bytes alone.

Owns the rule that looking at calls builds no argument, fetches no row and imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args
from urllib.parse import quote, unquote

from ..brokers import Broker, DeadLetter, HeldMessage, HeldPage, Listing, Remembering
from ..errors import ConfigurationError, MessageError
from ..tasks.declaration import registry
from ..wire.describing import Reference, described, references
from ..wire.message import Message
from ..wire.results import read_result
from . import letters
from .progress import CHECKPOINT, PROGRESS, Progress
from .progress import decode as decode_progress
from .status import TaskStatus, recorded

#: States in which a call can be listed.
ListedState = Literal["running", "waiting", "delayed"]

#: Most messages of a page of the broker, and of those that one call of `calls` looks at.
_AT_ONCE, _MOST_SEEN = 100, 2000


@dataclass(frozen=True, slots=True)
class CallInfo:
    """A call as it is now.

    Attributes:
        state: Where it is.
        task: The task's name; empty when the message could not be read, or is not held any more.
        arguments: As text, shortened, instances by class and key: `order=Order#5`. Empty where
            `show_arguments` is off or the message cannot be read.
        attempt: 1 for the first run and before it; of a dead call, how often it was run.
        deliveries: How often it was handed to a worker since its last attempt was counted.
        enqueued_at: Unix time in seconds of its dispatch; `None` where that is not known.
        due: Unix time in seconds before which it does not run, while it is delayed.
        died_at: Unix time in seconds at which it was given up, of a dead one.
        worker: The id of the worker that runs it.
        payload_bytes: Size of the message.
        reason: Why it was given up, of a dead one.
        error: The type and text of the error that it failed with, of a dead one.
        traceback: Of that error.
        references: The arguments that are model instances; none where `arguments` is empty.
        progress: How far it has come, as it last told; only from `TaskHandle.info`.
        checkpoint_bytes: Size of its checkpoint; only from `TaskHandle.info`.
    """

    id: str
    queue: str
    state: TaskStatus
    task: str = ""
    arguments: str = ""
    attempt: int = 1
    deliveries: int = 0
    enqueued_at: float | None = None
    due: float | None = None
    died_at: float | None = None
    worker: str = ""
    payload_bytes: int = 0
    reason: str = ""
    error: str = ""
    traceback: str = ""
    references: tuple[Reference, ...] = ()
    progress: Progress | None = None
    checkpoint_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CallPage:
    """A part of the calls that there are.

    Attributes:
        after: Where the next page begins; `None` at the end.
    """

    calls: list[CallInfo]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what queues hold.

    Args:
        keys: The signing keys.
        shows_arguments: Whether people may see the calls' arguments.
    """

    keys: Sequence[bytes]
    shows_arguments: bool

    def held(self, held: HeldMessage) -> CallInfo:
        """A call that waits, is delayed or runs."""
        info = self._read(held.queue, held.id, held.body, TaskStatus(held.state))
        return replace(info, deliveries=held.deliveries, due=held.due, worker=held.worker)

    def dead(self, letter: DeadLetter) -> CallInfo:
        """A call that was given up."""
        fate = letters.read(letter.info)
        return replace(
            self._read(letter.queue, letter.id, letter.body, TaskStatus.DEAD),
            task=fate.task,
            attempt=fate.attempts,
            deliveries=fate.deliveries,
            died_at=letter.died_at,
            reason=fate.reason,
            error=fate.error,
            traceback=fate.traceback,
        )

    def ended(self, queue: str, message_id: str, stored: bytes) -> CallInfo:
        """A call of which nothing but what it left is kept."""
        content = read_result(stored, self.keys, message_id, message_id)
        info = CallInfo(message_id, queue, recorded(content))
        if "error" not in content:
            return info
        name = str(content["error"]).replace(":", ".").removeprefix("builtins.")
        error, trace = f"{name}: {content.get('text', '')}", str(content.get("traceback", ""))
        return replace(info, error=error, traceback=trace)

    def arguments(self, message: Message) -> str:
        """The arguments as text, by name where the task is known."""
        return described(message.payload, _names(message)) if self.shows_arguments else ""

    def references(self, message: Message) -> tuple[Reference, ...]:
        """The arguments that are model instances."""
        return references(message.payload, _names(message)) if self.shows_arguments else ()

    def _read(self, queue: str, message_id: str, body: bytes, state: TaskStatus) -> CallInfo:
        info = CallInfo(message_id, queue, state, payload_bytes=len(body))
        try:
            message = Message.decode(body, self.keys)
        except MessageError:
            return info
        return replace(
            info,
            task=message.task,
            arguments=self.arguments(message),
            references=self.references(message),
            attempt=message.attempt,
            enqueued_at=message.enqueued_at,
        )


def _names(message: Message) -> Sequence[str]:
    task = registry.get(message.task)
    return task.parameter_names if task else ()


def listing(broker: Broker) -> Listing:
    """The broker as one that lists.

    Raises:
        ConfigurationError: It does not.
    """
    if not isinstance(broker, Listing):
        raise ConfigurationError(f"{broker.describe()} cannot list the calls that it holds")
    return broker


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which calls are meant.

    Attributes:
        states: In the order in which they are listed.
        queue: Only of this queue.
        task: Only of this task, or of tasks of this pattern.
    """

    states: Sequence[ListedState]
    queue: str | None = None
    task: str | None = None

    def fits(self, info: CallInfo) -> bool:
        """Whether its task is one of those."""
        return self.task is None or fnmatchcase(info.task, self.task)


def states_of(state: str | None) -> Sequence[ListedState]:
    """The state, or all in which a call can be listed.

    Raises:
        ValueError: It is none of them.
    """
    states: tuple[ListedState, ...] = get_args(ListedState)
    if state is None:
        return states
    found = [one for one in states if one == state]
    if not found:
        raise ValueError(f"calls are listed that are {', '.join(states)}; not {state!r:.50}")
    return found


async def page_of(
    broker: Broker, reader: Reader, chosen: Chosen, limit: int, after: str | None
) -> CallPage:
    """A page of the calls meant: up to so many, of a bounded number of messages.

    Raises:
        ConfigurationError: The broker does not list.
        ValueError: `after` is no place in the list.
    """
    lists = listing(broker)
    queues = [s.name for s in await broker.stats() if chosen.queue in (None, s.name)]
    places = [(state, queue) for state in chosen.states for queue in sorted(queues)]
    place = None
    if after is not None:
        first, place = _parsed(after, chosen.states)
        states = list(chosen.states)
        at = (states.index(first[0]), first[1])
        places = [one for one in places if (states.index(one[0]), one[1]) >= at]
        place = place if places and places[0] == first else None
    found: list[CallInfo] = []
    seen = 0
    for state, queue in places:
        while True:
            if len(found) == limit or seen >= _MOST_SEEN:
                return CallPage(found, f"{state}:{quote(queue, safe='')}:{place or ''}")
            page, infos = await _some(
                lists, reader, chosen, (state, queue), limit - len(found), place
            )
            found += infos
            seen += len(page.messages)
            if (place := page.after) is None:
                break
    return CallPage(found)


async def _some(
    lists: Listing,
    reader: Reader,
    chosen: Chosen,
    place: tuple[ListedState, str],
    most: int,
    after: str | None,
) -> tuple[HeldPage, list[CallInfo]]:
    """A page of the broker, with up to so many calls of it that are meant."""
    state, queue = place
    wanted = min(most, _AT_ONCE) if chosen.task is None else _AT_ONCE
    while True:
        page = await lists.held(queue, state, limit=wanted, after=after)
        infos = [reader.held(message) for message in page.messages]
        fitting = [i for i, info in enumerate(infos) if chosen.fits(info)]
        if len(fitting) <= most:
            return page, [infos[i] for i in fitting]
        wanted = fitting[most - 1] + 1  # for a page ends only where the broker says


def _parsed(
    after: str, states: Sequence[ListedState]
) -> tuple[tuple[ListedState, str], str | None]:
    name, _, rest = after.partition(":")
    queue, _, place = rest.partition(":")
    for state in states:
        if state == name:
            return (state, unquote(queue)), place or None
    raise ValueError(f"{after[:50]!r} is no place in this list")


async def find(
    broker: Broker, reader: Reader, message_id: str, queues: Sequence[str]
) -> CallInfo | None:
    """The call of this id, with its progress, if one of these queues has it or what it left.

    Raises:
        ConfigurationError: The broker does not list.
        BadSignature: What it left was not signed for this call.
        TaskFailed: What it left is damaged.
    """
    lists = listing(broker)
    for queue in queues:
        for held in await lists.find_held(queue, [message_id]):
            return await _with_values(broker, reader.held(held))
        for letter in await broker.find_dead(queue, [message_id]):
            return await _with_values(broker, reader.dead(letter))
    for queue in queues:
        if (stored := await broker.result(queue, message_id, 0)) is not None:
            return await _with_values(broker, reader.ended(queue, message_id, stored))
    return None


async def _with_values(broker: Broker, info: CallInfo) -> CallInfo:
    if not isinstance(broker, Remembering):
        return info
    told = await broker.value(info.queue, PROGRESS, info.id)
    kept = await broker.value(info.queue, CHECKPOINT, info.id)
    return replace(
        info,
        progress=None if told is None else decode_progress(told),
        checkpoint_bytes=None if kept is None else len(kept),
    )
