"""Calls in their queues, shown to people from the bytes alone.

Owns the rule that looking at calls builds no argument, fetches no row and imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Literal, get_args
from urllib.parse import quote, unquote

from ..brokers import Broker, DeadLetter, HeldMessage, HeldPage, Listing, Remembering
from ..errors import ConfigurationError, MessageError
from ..tasks.declaration import registry
from ..wire.describing import Reference, described, references
from ..wire.flow import BatchPlace, Flow, following_id
from ..wire.flow import decode as decode_flow
from ..wire.message import Message
from ..wire.results import read_result
from . import letters
from .progress import CHECKPOINT, PROGRESS, Progress
from .progress import decode as decode_progress
from .status import TaskStatus, recorded

#: States in which a call can be listed.
ListedState = Literal["running", "waiting", "delayed"]

#: Maximum number of messages in a broker's page, and of messages that one `calls` looks at.
_AT_ONCE, _MOST_SEEN = 100, 2000

#: Maximum number of queue states that one `calls` asks for: each may hold only a call or two.
_MOST_ASKED = 100


@dataclass(frozen=True, slots=True)
class NextCall:
    """A call whose turn in a chain has not come."""

    queue: str
    id: str
    task: str


@dataclass(frozen=True, slots=True)
class CallInfo:
    """A call as it is now.

    Attributes:
        state: Where it is.
        task: The task's name; empty if the message cannot be read or is no longer held.
        arguments: As shortened text, instances by class and key: `order=Order#5`. Empty if
            `show_arguments` is off or the message cannot be read.
        attempt: 1 until the first run has ended; for a dead call, how often it ran.
        deliveries: How often it was handed to a worker since its last attempt was counted.
        enqueued_at: When it was dispatched, Unix time in seconds; `None` if unknown.
        due: While it is delayed, the Unix time in seconds before which it does not run; `None`
            while a pause holds it back.
        died_at: When a dead call was given up, Unix time in seconds.
        worker: The id of the worker that runs it.
        payload_bytes: Size of the message.
        parent: Queue and id of the call, or of the batch, that it follows.
        parent_task: The name of that call's task.
        children: The calls that follow it, in order; empty once it is done.
        place: Its place in a batch.
        reason: Why a dead call was given up.
        error: The type and text of the error that a dead call failed with.
        traceback: The traceback of that error.
        references: The arguments that are model instances; none if `arguments` is empty.
        progress: The progress it last reported; only from `TaskHandle.info`.
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
    parent: tuple[str, str] | None = None
    parent_task: str = ""
    children: tuple[NextCall, ...] = ()
    place: BatchPlace | None = None
    reason: str = ""
    error: str = ""
    traceback: str = ""
    references: tuple[Reference, ...] = ()
    progress: Progress | None = None
    checkpoint_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CallPage:
    """One page of the calls that there are.

    Attributes:
        after: Where the next page begins; `None` on the last page.
    """

    calls: list[CallInfo]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the calls that queues hold.

    Args:
        keys: The signing keys.
        shows_arguments: Whether people may see the calls' arguments.
    """

    keys: Sequence[bytes]
    shows_arguments: bool

    def held(self, held: HeldMessage) -> CallInfo:
        """A waiting, delayed or running call."""
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
        """A call that is gone, from the result or record that it left."""
        content = read_result(stored, self.keys, message_id, message_id)
        info = CallInfo(message_id, queue, recorded(content))
        if "error" not in content:
            return info
        name = str(content["error"]).replace(":", ".").removeprefix("builtins.")
        error, trace = f"{name}: {content.get('text', '')}", str(content.get("traceback", ""))
        return replace(info, error=error, traceback=trace)

    def arguments(self, message: Message) -> str:
        """The arguments as text, by name if the task is known."""
        return described(message.payload, _names(message)) if self.shows_arguments else ""

    def references(self, message: Message) -> tuple[Reference, ...]:
        """The arguments that are model instances."""
        return references(message.payload, _names(message)) if self.shows_arguments else ()

    def _read(self, queue: str, message_id: str, body: bytes, state: TaskStatus) -> CallInfo:
        info = CallInfo(message_id, queue, state, payload_bytes=len(body))
        try:
            message = Message.decode(body, self.keys)
            flow = decode_flow(message.flow)
        except MessageError:
            return info
        return replace(
            info,
            task=message.task,
            arguments=self.arguments(message),
            references=self.references(message),
            attempt=message.attempt,
            enqueued_at=message.enqueued_at,
            parent=flow.parent,
            parent_task=flow.parent_task,
            children=_children(message.id, flow),
            place=flow.place,
        )


def _children(message_id: str, flow: Flow) -> tuple[NextCall, ...]:
    found = []
    for link in flow.then:
        message_id = following_id(message_id)
        found.append(NextCall(link.queue, message_id, link.task))
    return tuple(found)


def _names(message: Message) -> Sequence[str]:
    task = registry.get(message.task)
    return task.parameter_names if task else ()


def listing(broker: Broker) -> Listing:
    """The broker, typed as one that can list what it holds.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(broker, Listing):
        raise ConfigurationError(f"{broker.describe()} cannot list the calls that it holds")
    return broker


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which calls to list.

    Attributes:
        states: In the order in which to list them.
        queue: Only calls in this queue.
        task: Only calls of this task, or of tasks that match this pattern.
        arguments: Only calls with this text in their arguments as shown, in any case.
    """

    states: Sequence[ListedState]
    queue: str | None = None
    task: str | None = None
    arguments: str | None = None

    @property
    def is_search(self) -> bool:
        """Whether not every call in these states and queues fits."""
        return self.task is not None or self.arguments is not None

    def fits(self, info: CallInfo) -> bool:
        """Whether the call's task and arguments match."""
        if self.task is not None and not fnmatchcase(info.task, self.task):
            return False
        return self.arguments is None or self.arguments.lower() in info.arguments.lower()


def states_of(state: str | None) -> Sequence[ListedState]:
    """The given state, or all states in which a call can be listed.

    Raises:
        ValueError: There is no such state.
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
    """A page of up to `limit` chosen calls, found among a bounded number of messages.

    Raises:
        ConfigurationError: The broker cannot list what it holds.
        ValueError: `after` is not a place in the list.
    """
    lists = listing(broker)
    stats = [s for s in await broker.stats() if chosen.queue in (None, s.name)]
    stats.sort(key=attrgetter("name"))
    # Of a thousand queues most are empty, and asking them all would take a thousand round trips.
    places = [(state, s.name) for state in chosen.states for s in stats if getattr(s, state)]
    place = None
    if after is not None:
        first, place = _parsed(after, chosen.states)
        states = list(chosen.states)
        at = (states.index(first[0]), first[1])
        places = [one for one in places if (states.index(one[0]), one[1]) >= at]
        place = place if places and places[0] == first else None
    found: list[CallInfo] = []
    seen = asked = 0
    for state, queue in places:
        while True:
            if len(found) == limit or seen >= _MOST_SEEN or asked >= _MOST_ASKED:
                return CallPage(found, f"{state}:{quote(queue, safe='')}:{place or ''}")
            page, infos = await _some(
                lists, reader, chosen, (state, queue), limit - len(found), place
            )
            found += infos
            seen += len(page.messages)
            asked += 1
            if (place := page.after) is None:
                break
    return CallPage(found)


async def running(broker: Broker, reader: Reader, most: int) -> list[CallInfo]:
    """Up to `most` of the calls that run now, with the progress that they have reported.

    Raises:
        ConfigurationError: The broker cannot list what it holds.
    """
    page = await page_of(broker, reader, Chosen(("running",)), most, None)
    return [await _with_values(broker, call) for call in page.calls]


async def waiting_since(
    broker: Broker, queues: Sequence[str], keys: Sequence[bytes]
) -> dict[str, float]:
    """When the next call in each of these queues was dispatched, where calls wait."""
    if not isinstance(broker, Listing):
        return {}
    found: dict[str, float] = {}
    for queue in queues:
        for held in (await broker.held(queue, "waiting", limit=1)).messages:
            with suppress(MessageError):
                found[queue] = Message.decode(held.body, keys).enqueued_at
    return found


async def _some(
    lists: Listing,
    reader: Reader,
    chosen: Chosen,
    place: tuple[ListedState, str],
    most: int,
    after: str | None,
) -> tuple[HeldPage, list[CallInfo]]:
    """A page of the broker, with up to `most` of its calls that were chosen."""
    state, queue = place
    wanted = _AT_ONCE if chosen.is_search else min(most, _AT_ONCE)
    while True:
        page = await lists.held(queue, state, limit=wanted, after=after)
        infos = [reader.held(message) for message in page.messages]
        fitting = [i for i, info in enumerate(infos) if chosen.fits(info)]
        if len(fitting) <= most:
            return page, [infos[i] for i in fitting]
        wanted = fitting[most - 1] + 1  # only the broker can say where a page may end


def _parsed(
    after: str, states: Sequence[ListedState]
) -> tuple[tuple[ListedState, str], str | None]:
    name, _, rest = after.partition(":")
    queue, _, place = rest.partition(":")
    for state in states:
        if state == name:
            return (state, unquote(queue)), place or None
    raise ValueError(f"{after[:50]!r} is not a place in this list")


async def find(
    broker: Broker, reader: Reader, message_id: str, queues: Sequence[str]
) -> CallInfo | None:
    """The call with this id and its progress, if one of these queues holds it or its result.

    Raises:
        ConfigurationError: The broker cannot list what it holds.
        BadSignature: The result was not signed for this call.
        TaskFailed: The result is damaged.
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
