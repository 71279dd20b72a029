"""Dead letters: what failed for good, to be looked at, retried or deleted.

Owns the rule that a retry is the same message under the same id, with all its attempts ahead of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgpack

from . import brokers
from .app import current
from .errors import MessageError
from .wire.message import Message

T = TypeVar("T")

#: How many are moved in one round trip.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be run again unless somebody retries it.

    Attributes:
        task: The task's name; empty when the message could not be read.
        reason: Why it was given up.
        error: The error's type and text.
        attempts: How often it was run.
        deliveries: How often it was handed to a worker since its last attempt was counted.
        died_at: Unix time in seconds.
        payload_bytes: Size of the message.
    """

    queue: str
    id: str
    task: str
    reason: str
    error: str
    traceback: str
    attempts: int
    deliveries: int
    died_at: float
    payload_bytes: int


async def list_dead(
    queue: str | None = None, *, limit: int = 100, offset: int = 0
) -> list[DeadLetter]:
    """A page of the dead letters of a queue, or of all queues, newest first in each.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    return [letter async for page in pages(queue, limit=limit, offset=offset) for letter in page]


async def pages(
    queue: str | None = None, *, limit: int, offset: int = 0
) -> AsyncIterator[list[DeadLetter]]:
    """As `list_dead`, page by page, for more than memory should hold."""
    broker = current().open_broker()
    for name, dead in await _queues(queue):
        while offset < dead and limit > 0:
            wanted = min(limit, _PAGE)
            page = await broker.dead_letters(name, limit=wanted, offset=offset)
            limit -= len(page)
            offset += len(page)
            yield [_readable(letter) for letter in page]
            if len(page) < wanted:
                break
        offset = max(0, offset - dead)


async def show(message_id: str, queue: str | None = None) -> DeadLetter | None:
    """The dead letter of this id, looked for in all queues unless one is named."""
    for name, _ in await _queues(queue):
        for letter in await current().open_broker().find_dead(name, [message_id]):
            return _readable(letter)
    return None


async def retry(queue: str | None = None, ids: Sequence[str] | None = None) -> int:
    """Put dead letters back on their queues, to be run at once with all attempts ahead.

    Args:
        queue: Where they are; by default in all queues.
        ids: Which ones; by default all that are there now.

    Returns:
        How many there were.
    """
    if ids is None:
        return sum([await _retry_all(name) for name, _ in await _queues(queue)])
    broker = current().open_broker()
    count = 0
    for name, _ in await _queues(queue):
        for first in range(0, len(ids), _PAGE):
            letters = await broker.find_dead(name, ids[first : first + _PAGE])
            count += await _retry(name, letters)
    return count


async def purge(queue: str | None = None, ids: Sequence[str] | None = None) -> int:
    """Delete dead letters for ever; arguments and result as for `retry`."""
    broker = current().open_broker()
    return sum([await broker.purge_dead(name, ids) for name, _ in await _queues(queue)])


async def _queues(queue: str | None) -> list[tuple[str, int]]:
    """Names of the queues meant, with how many dead letters each holds."""
    stats = await current().open_broker().stats()
    return [(s.name, s.dead) for s in stats if s.dead and queue in (None, s.name)]


async def _retry_all(queue: str) -> int:
    # A worker may give a retried one up again while this goes on; nothing is retried twice.
    seen: set[str] = set()
    offset = count = 0
    broker = current().open_broker()
    while page := await broker.dead_letters(queue, limit=_PAGE, offset=offset):
        fresh = [letter for letter in page if letter.id not in seen]
        seen.update(letter.id for letter in fresh)
        count += await _retry(queue, fresh)
        offset += len(page) - len(fresh)
    return count


async def _retry(queue: str, letters: Sequence[brokers.DeadLetter]) -> int:
    bodies = [(letter.id, _renewed(letter.body)) for letter in letters]
    return await current().open_broker().retry_dead(queue, bodies) if bodies else 0


def _renewed(body: bytes) -> bytes:
    """The message as it was before its first attempt; unchanged if it cannot be read."""
    keys = current().config.signing_key
    try:
        message = Message.decode(body, keys)
    except MessageError:
        return body
    return replace(message, attempt=1, postponed=0).encode(keys)


def _readable(letter: brokers.DeadLetter) -> DeadLetter:
    info = _info(letter.info)
    texts = {k: _of(str, info.get(k), "") for k in ("task", "reason", "error", "traceback")}
    return DeadLetter(
        queue=letter.queue,
        id=letter.id,
        **texts,
        attempts=_of(int, info.get("attempts"), 0),
        deliveries=_of(int, info.get("deliveries"), 0),
        died_at=letter.died_at,
        payload_bytes=len(letter.body),
    )


def _of(cls: type[T], value: object, default: T) -> T:
    """The value if it is what a worker writes; others may have written to the store."""
    return value if isinstance(value, cls) else default


def _info(packed: bytes) -> dict[str, Any]:
    try:
        # Flat, so that no header of damaged bytes claims memory for nothing.
        info = msgpack.unpackb(packed, max_array_len=0)
    except (ValueError, TypeError, msgpack.UnpackException):
        return {}
    return info if isinstance(info, dict) else {}
