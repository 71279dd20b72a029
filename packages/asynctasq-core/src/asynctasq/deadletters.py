"""Dead letters: calls that failed for good, which people can look at, retry or delete.

Owns the rule that a retry is the same message with the same id and all its attempts ahead of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from glob import escape
from time import time
from typing import Any

from . import brokers
from .app import current
from .errors import MessageError
from .sending import letters
from .sending.listing import Reader
from .wire.describing import Reference
from .wire.message import Message

__all__ = [
    "DeadCall",
    "Filter",
    "Group",
    "Reference",
    "groups",
    "list_dead",
    "pages",
    "purge",
    "retry",
    "search",
    "show",
]

#: Number of dead letters to move in one round trip.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class DeadCall:
    """A message that will not run again unless somebody retries it.

    Attributes:
        task: The task's name; empty if the message cannot be read.
        arguments: As shortened text, instances by class and key: `order=Order#5`; by name if the
            task is known. Empty if `show_arguments` is off or the message cannot be read.
        reason: Why it was given up.
        error: The error's type and text.
        attempts: How often it ran.
        deliveries: How often it was handed to a worker since its last attempt was counted.
        died_at: When it was given up, Unix time in seconds.
        payload_bytes: Size of the message.
        references: The arguments that are model instances; none if `arguments` is empty.
    """

    queue: str
    id: str
    task: str
    arguments: str
    reason: str
    error: str
    traceback: str
    attempts: int
    deliveries: int
    died_at: float
    payload_bytes: int
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Selects dead letters; a condition that is left out always holds.

    Attributes:
        task: The task's name, or a pattern such as `shop.*`.
        reason: Part of the reason it was given up, ignoring case.
        error: Part of the error's type and text, ignoring case.
        arguments: Part of the arguments as shown, such as `tenant=Tenant#5`. If `show_arguments` is
            off, no dead letter matches.
        older_than: Minimum time since it was given up, counted from when the filter was made.
    """

    task: str | None = None
    reason: str | None = None
    error: str | None = None
    arguments: str | None = None
    older_than: timedelta | None = None
    _now: float = field(default_factory=time, init=False, repr=False)

    def fits(self, letter: brokers.DeadLetter) -> bool:
        """Whether the dead letter matches."""
        fate = letters.read(letter.info)
        if self.task is not None and not fnmatchcase(fate.task, self.task):
            return False
        for part, text in ((self.reason, fate.reason), (self.error, fate.error)):
            if part is not None and part.lower() not in text.lower():
                return False
        if self.arguments is not None and not _fits_arguments(self.arguments, letter):
            return False
        age = self._now - letter.died_at
        return self.older_than is None or age >= self.older_than.total_seconds()


async def list_dead(
    queue: str | None = None, *, limit: int = 100, offset: int = 0, where: Filter | None = None
) -> list[DeadCall]:
    """A page of the dead letters of a queue, or of all queues, newest first in each.

    Args:
        where: Only those that match; `limit` and `offset` count no others.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    found = pages(queue, limit=limit, offset=offset, where=where)
    return [letter async for page in found for letter in page]


async def pages(
    queue: str | None = None, *, limit: int, offset: int = 0, where: Filter | None = None
) -> AsyncIterator[list[DeadCall]]:
    """As `list_dead`, page by page, for more dead letters than memory should hold."""
    broker = current().open_broker()
    for name, dead in await _queues(queue):
        start = 0 if where else min(offset, dead)  # without a filter the broker itself can skip
        offset -= start
        while start < dead and limit > 0:
            wanted = _PAGE if where else min(limit, _PAGE)
            page = await broker.dead_letters(name, limit=wanted, offset=start)
            start += len(page)
            fitting = [letter for letter in page if where is None or where.fits(letter)]
            shown = fitting[offset : offset + limit]
            offset = max(0, offset - len(fitting))
            limit -= len(shown)
            yield [_readable(letter) for letter in shown]
            if len(page) < wanted:
                break


async def search(
    queue: str | None = None,
    *,
    limit: int = 100,
    offset: int = 0,
    where: Filter | None = None,
    most: int = 5000,
) -> tuple[list[DeadCall], bool]:
    """As `list_dead`, for people who wait: reads a bounded number that a filter rejects.

    Args:
        most: About how many to look at for `where`.

    Returns:
        The dead letters, and whether the search is sure to have missed none.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    found: list[DeadCall] = []
    looked_at = 0
    async for page in pages(queue, limit=limit, offset=offset, where=where):
        found += page
        looked_at += _PAGE
        if where is not None and looked_at >= most and len(found) < limit:
            return found, False
    return found, True


@dataclass(slots=True)
class Group:
    """Dead letters of one task with errors of one type.

    Attributes:
        error: The type of the error, or the reason they were given up if there was none.
        count: How many there are.
        newest: When the last of them died, Unix time in seconds.
        oldest: When the first of them died, Unix time in seconds.
        example: The error of one of them, with its text.
        has_error: Whether `error` is the type of an error.
    """

    task: str
    error: str
    count: int
    newest: float
    oldest: float
    example: str
    has_error: bool = True

    @property
    def filter(self) -> dict[str, Any]:
        """Arguments of a `Filter` for this group, as closely as a filter can select it."""
        kind = {"error" if self.has_error else "reason": self.error}
        return {"task": escape(self.task), **kind} if self.task else kind


async def groups(
    queue: str | None = None, *, where: Filter | None = None, most: int = 2000
) -> tuple[list[Group], int]:
    """Group dead letters by task and kind of error, largest group first.

    Args:
        where: Only those that match.
        most: How many to look at, the newest of each queue in turn.

    Returns:
        The groups, and how many dead letters were looked at.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    found: dict[tuple[str, str], Group] = {}
    looked_at = 0
    broker = current().open_broker()
    for name, dead in await _queues(queue):
        start = 0
        while start < dead and looked_at < most:
            page = await broker.dead_letters(name, limit=min(_PAGE, most - looked_at), offset=start)
            start += len(page)
            looked_at += len(page)
            for letter in page:
                if where is None or where.fits(letter):
                    _count(found, letter)
            if not page:
                break
    return sorted(found.values(), key=lambda group: -group.count), looked_at


def _count(found: dict[tuple[str, str], Group], letter: brokers.DeadLetter) -> None:
    fate, at = letters.read(letter.info), letter.died_at
    error = fate.error.partition(":")[0]
    kind = error or fate.reason
    group = found.get((fate.task, kind))
    if group is None:
        example = fate.error or fate.reason
        group = Group(fate.task, kind, 0, at, at, example, has_error=bool(error))
        found[fate.task, kind] = group
    group.count += 1
    group.newest, group.oldest = max(group.newest, at), min(group.oldest, at)


async def show(message_id: str, queue: str | None = None) -> DeadCall | None:
    """The dead letter with this id, in any queue unless one is named."""
    for name, _ in await _queues(queue):
        for letter in await current().open_broker().find_dead(name, [message_id]):
            return _readable(letter)
    return None


async def retry(
    queue: str | None = None,
    ids: Sequence[str] | None = None,
    where: Filter | None = None,
    *,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Put dead letters back on their queues, to run at once with all attempts ahead.

    Args:
        queue: Their queue; by default all queues.
        ids: Which ones; by default all that are there now.
        where: Only those that match, instead of `ids`.
        on_progress: Called after each batch with how many have been moved so far. What it raises
            ends the work; what has been moved stays moved.

    Returns:
        How many were moved.
    """
    if ids is None:
        return await _each(queue, where, _retry, on_progress)
    broker = current().open_broker()
    count = 0
    for name, _ in await _queues(queue):
        for first in range(0, len(ids), _PAGE):
            letters = await broker.find_dead(name, ids[first : first + _PAGE])
            count += await _retry(name, letters)
    return count


async def purge(
    queue: str | None = None,
    ids: Sequence[str] | None = None,
    where: Filter | None = None,
    *,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Delete dead letters for good; arguments and result as for `retry`."""
    if ids is None and where is not None:
        return await _each(queue, where, _purge, on_progress)
    broker = current().open_broker()
    count = 0
    for name, _ in await _queues(queue):
        count += await broker.purge_dead(name, ids)
        if on_progress is not None:
            on_progress(count)
    return count


async def _queues(queue: str | None) -> list[tuple[str, int]]:
    """Names of the chosen queues, with how many dead letters each holds."""
    stats = await current().open_broker().stats()
    return [(s.name, s.dead) for s in stats if s.dead and queue in (None, s.name)]


async def _each(
    queue: str | None,
    where: Filter | None,
    take_away: Callable[[str, Sequence[brokers.DeadLetter]], Awaitable[int]],
    on_progress: Callable[[int], object] | None,
) -> int:
    """Take away the chosen dead letters, page by page; returns how many there were."""
    broker = current().open_broker()
    # Workers may give up a retried call again meanwhile, and nothing may be retried twice.
    seen: set[str] = set()
    count = 0
    for name, _ in await _queues(queue):
        offset = 0
        while page := await broker.dead_letters(name, limit=_PAGE, offset=offset):
            fresh = [letter for letter in page if letter.id not in seen]
            chosen = [letter for letter in fresh if where is None or where.fits(letter)]
            seen.update(letter.id for letter in chosen)
            count += await take_away(name, chosen)
            offset += len(page) - len(chosen)
            if on_progress is not None:
                on_progress(count)
    return count


async def _retry(queue: str, letters: Sequence[brokers.DeadLetter]) -> int:
    bodies = [(letter.id, _renewed(letter.body)) for letter in letters]
    return await current().open_broker().retry_dead(queue, bodies) if bodies else 0


async def _purge(queue: str, letters: Sequence[brokers.DeadLetter]) -> int:
    ids = [letter.id for letter in letters]
    return await current().open_broker().purge_dead(queue, ids) if ids else 0


def _renewed(body: bytes) -> bytes:
    """The message as it was before its first attempt; unchanged if it cannot be read."""
    keys = current().config.signing_key
    try:
        message = Message.decode(body, keys)
    except MessageError:
        return body
    return message.anew().encode(keys)


def _readable(letter: brokers.DeadLetter) -> DeadCall:
    info = _reader().dead(letter)
    return DeadCall(
        queue=letter.queue,
        id=letter.id,
        task=info.task,
        arguments=info.arguments,
        reason=info.reason,
        error=info.error,
        traceback=info.traceback,
        attempts=info.attempt,
        deliveries=info.deliveries,
        died_at=letter.died_at,
        payload_bytes=len(letter.body),
        references=info.references,
    )


def _fits_arguments(part: str, letter: brokers.DeadLetter) -> bool:
    arguments = _reader().dead(letter).arguments
    return bool(arguments) and part.lower() in arguments.lower()


def _reader() -> Reader:
    config = current().config
    return Reader(config.signing_key, config.show_arguments)
