"""Finds where the chain is whose later calls have not been put yet.

Nothing is kept under the id of such a call. But all ids of a chain begin with the same time, and
the message of the call whose turn it is names those that follow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import product

from ..brokers import Broker, DeadLetter, HeldMessage, HeldState, Listing
from .listing import CallInfo, Reader, listing
from .status import TaskStatus

STOPPED = "the chain stopped at"

#: Digits of an id that are its time, in milliseconds.
_TIME_DIGITS = 12

#: Maximum number of messages to look at, in each state of each queue; and in one page.
_MOST_SEEN, _AT_ONCE = 1000, 100

#: The states in which a call's message may be, besides dead; its turn has come in each.
_HELD: tuple[HeldState, ...] = ("running", "delayed", "waiting")

#: How far clocks may differ.
_SKEW_SECONDS = 3600.0


async def find_link(
    broker: Broker, reader: Reader, message_id: str, queues: Sequence[str]
) -> CallInfo | None:
    """What is known of a call whose turn has not come, from the call of its chain whose turn it is.

    Looks at dead calls and the first thousand of the others in each queue and state.

    Raises:
        ConfigurationError: The broker cannot list what it holds.
        BrokerUnavailable: The broker cannot be reached.
    """
    async for info in _with_same_time(broker, reader, message_id, queues):
        for i, link in enumerate(info.children):
            if link.id != message_id:
                continue
            before = info.children[i - 1] if i else info
            is_dead = info.state is TaskStatus.DEAD
            return CallInfo(
                message_id,
                link.queue,
                TaskStatus.DEAD if is_dead else TaskStatus.WAITING,
                link.task,
                parent=(before.queue, before.id),
                parent_task=before.task,
                children=info.children[i + 1 :],
                reason=f"{STOPPED} {info.task} {info.id}: {info.reason}" if is_dead else "",
                error=info.error,
                traceback=info.traceback,
            )
    return None


async def _with_same_time(
    broker: Broker, reader: Reader, message_id: str, queues: Sequence[str]
) -> AsyncIterator[CallInfo]:
    """The calls whose ids begin with the same time."""
    time = message_id[:_TIME_DIGITS]
    try:
        since = int(time, 16) / 1000 - _SKEW_SECONDS
    except ValueError:
        return
    for queue in queues:
        async for letter in _dead_since(broker, queue, since):
            if letter.id.startswith(time):
                yield reader.dead(letter)
    for queue, state in product(queues, _HELD):
        async for message in _held(listing(broker), queue, state):
            if message.id.startswith(time):
                yield reader.held(message)


async def _dead_since(broker: Broker, queue: str, since: float) -> AsyncIterator[DeadLetter]:
    """The queue's dead letters, newest first, with some that died before `since`, Unix time."""
    for first in range(0, _MOST_SEEN, _AT_ONCE):
        letters = await broker.dead_letters(queue, limit=_AT_ONCE, offset=first)
        for letter in letters:
            yield letter
        if len(letters) < _AT_ONCE or letters[-1].died_at < since:
            return


async def _held(broker: Listing, queue: str, state: HeldState) -> AsyncIterator[HeldMessage]:
    after = None
    for _ in range(0, _MOST_SEEN, _AT_ONCE):
        page = await broker.held(queue, state, limit=_AT_ONCE, after=after)
        for message in page.messages:
            yield message
        if (after := page.after) is None:
            return
