"""The Redis broker: everything except consuming.

A queue is a stream with a consumer group. A lease is an entry in the group's pending list, so the
blocking read that delivers a message also leases it, atomically. Every other transition is one Lua
script.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from ...config.settings import is_queue_name
from .. import (
    ConsumerOptions,
    DeadLetter,
    Finding,
    HeldMessage,
    HeldPage,
    HeldState,
    KeyInUse,
    MessageState,
    Outgoing,
    QueueStats,
    WorkerInfo,
)
from ..parking import PAUSES, pause_number
from . import listing
from .asks import in_use, is_asking, packed
from .awaited import Awaited
from .config import RedisConfig
from .consumer import RedisConsumer
from .doctor import check_server
from .keys import Keys
from .registry import alive_workers, release_worker, withdrawal
from .scripts import (
    CANCEL,
    DEAD,
    DELETE_VALUES,
    FIND_DEAD,
    FIND_HELD,
    HELD,
    KEYS_IN_USE,
    LEAD,
    PAUSE,
    PURGE,
    PURGE_DEAD,
    PUT,
    PUT_ASKING,
    REGISTER,
    REPLACE_VALUE,
    RESUME,
    RETRY_DEAD,
    SET_VALUE,
    STATE,
    STATS,
    VALUE,
    VALUES,
    Command,
    Script,
)
from .server import Call, Server

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Maximum messages and bytes per script call (a single message may be larger), so that the server's
#: other clients do not wait long.
_AT_ONCE = 500
_BYTES_AT_ONCE = 1024 * 1024
#: Maximum dead letters per answer, and per call that deletes them.
_LETTERS_AT_ONCE = 100
#: Maximum lines, limits, rates and unique keys (of each) that a look at the keys in use covers.
_KEYS_AT_ONCE = 1000
#: The minimum size that a message which asks for something counts as, since it takes about ten
#: commands.
_ASKING_BYTES = 8192


class RedisBroker:
    """Queues in Redis; see `Broker` for the contract.

    While the server is unreachable, each call is retried for up to the configured `timeout` in
    seconds; then it raises `BrokerUnavailable`.
    """

    def __init__(self, config: RedisConfig) -> None:
        self.timeout_seconds = config.timeout
        self._server = Server(config)
        self._keys = Keys(config.key_prefix)
        self._awaited = Awaited(self._server)
        self._known_queues: set[str] = set()

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add messages; see `Broker.put`."""
        if not messages:
            return None
        if len(messages) == 1 and not is_asking(messages[0]):
            message = messages[0]
            keys = self._keys.of(message.queue)
            queues = {message.queue}
            command = PUT(keys[:4], message.id, message.body, _due_ms(message.due))
            calls: list[Call] = [(keys.stream, command)]
        else:
            by_queue: dict[str, list[Outgoing]] = {}
            for message in messages:
                by_queue.setdefault(message.queue, []).append(message)
            queues = set(by_queue)
            calls = [call for queue, some in by_queue.items() for call in self._puts(queue, some)]
        if queues <= self._known_queues:
            replies = await self._server.insist_many(calls)
        else:
            replies = await self._put_and_register(calls, queues - self._known_queues)
        return _conflicts(replies)

    def consumer(self, options: ConsumerOptions) -> RedisConsumer:
        """A consumer that has not started yet."""
        return RedisConsumer(self._server, self._keys, options)

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now; see `Broker.state`."""
        keys = self._keys.of(queue)
        command = STATE((keys.stream, keys.ids, keys.delayed), message_id)
        state = await self._server.insist(keys.stream, command)
        return None if state is None else cast(MessageState, state.decode())

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a waiting or delayed message; see `Broker.cancel`."""
        keys = self._keys.of(queue)
        command = CANCEL(
            (*keys[:4], keys.result(message_id)),
            message_id,
            int(result is not None),
            result or b"",
            max(1, round(result_ttl * 1000)),
        )
        removed = await self._server.insist(keys.stream, command)
        return bool(removed)

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """Wait for the result; see `Broker.result`."""
        key = self._keys.of(queue).result(message_id)
        return await self._awaited.until(
            key, (b"GET", key), lambda result: result is not None, timeout_seconds
        )

    async def stats(self) -> list[QueueStats]:
        """All known queues, ordered by name."""
        names = await self._server.insist(self._keys.queues, (b"SMEMBERS", self._keys.queues))
        queues = sorted(filter(is_queue_name, (name.decode("utf-8", "replace") for name in names)))
        calls = []
        for queue in queues:
            keys = self._keys.of(queue)
            its_keys = (keys.stream, keys.delayed, keys.dead, keys.bodies, keys.ids)
            calls.append((keys.stream, STATS(its_keys)))
        counts = await self._server.insist_many(calls) if calls else []
        return [QueueStats(queue, *some) for queue, some in zip(queues, counts, strict=True)]

    async def workers(self) -> list[WorkerInfo]:
        """Workers that have shown a sign of life within their lease."""
        return await alive_workers(self._server, self._keys)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the queue's dead letters, newest first."""
        letters: list[DeadLetter] = []
        first, end = offset, offset + limit
        while first < end:
            last = min(first + _LETTERS_AT_ONCE, end) - 1
            passed, some = await self._letters(queue, DEAD, first, last)
            letters += some
            if not passed:
                break
            first += passed
        return letters

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters among these ids."""
        left = list(dict.fromkeys(message_ids))
        letters: list[DeadLetter] = []
        while left:
            passed, some = await self._letters(queue, FIND_DEAD, *left[:_AT_ONCE])
            letters += some
            del left[:passed]
        return letters

    async def _letters(
        self, queue: str, script: Script, *arguments: str | int
    ) -> tuple[int, list[DeadLetter]]:
        keys = self._keys.of(queue)
        command = script((keys.dead, keys.letters), *arguments)
        passed, *page = await self._server.insist(keys.stream, command)
        rows = zip(page[::3], page[1::3], page[2::3], strict=True)
        return passed, [_dead_letter(queue, *row) for row in rows]

    async def held(
        self, queue: str, state: HeldState, *, limit: int = 100, after: str | None = None
    ) -> HeldPage:
        """A page of the messages in a state; see `Listing.held`."""
        keys = self._keys.of(queue)
        command = HELD(keys[:4], *listing.begin(state, after), min(limit, listing.AT_ONCE))
        return listing.page(queue, await self._server.insist(keys.stream, command))

    async def find_held(self, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
        """The messages among these ids that are waiting, delayed or running."""
        keys, left = self._keys.of(queue), list(dict.fromkeys(message_ids))
        found: list[HeldMessage] = []
        while left:
            command = FIND_HELD(keys[:4], *left[: listing.AT_ONCE])
            looked_at, texts = await self._server.insist(keys.stream, command)
            found += listing.messages(queue, texts)
            del left[:looked_at]
        return found

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting; see `Broker.retry_dead`."""
        keys = self._keys.of(queue)
        script_keys = keys[:6]
        retried = 0
        for page in _pages(bodies, lambda pair: len(pair[1])):
            arguments = [value for pair in page for value in pair]
            command = RETRY_DEAD(script_keys, *arguments)
            retried += await self._server.insist(keys.stream, command)
        return retried

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete these dead letters, or all in the queue; return how many."""
        keys = self._keys.of(queue)
        script_keys = (keys.ids, keys.dead, keys.letters)
        if message_ids is None:
            return await self._until_none(keys.stream, PURGE_DEAD(script_keys))
        purged = 0
        for page in _pages(message_ids, lambda _: _BYTES_AT_ONCE // _LETTERS_AT_ONCE):
            purged += await self._server.insist(keys.stream, PURGE_DEAD(script_keys, *page))
        return purged

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed in the queue; return how many."""
        keys = self._keys.of(queue)
        return await self._until_none(keys.stream, PURGE(keys[:4]))

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Release everything leased to a dead worker; see `Broker.release_worker`."""
        released = 0
        for queue in queues:
            keys = self._keys.of(queue)
            for stream in (keys.stream, keys.admitted):
                released += await release_worker(
                    self._server.insist, stream, worker_id, taken_back=0
                )
        await self._server.insist(self._keys.queues, withdrawal(self._keys, worker_id))
        return released

    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take or renew a named lease; see `Coordinating.lead`."""
        key = self._keys.lead(name)
        command = LEAD((key,), holder, max(1, round(ttl_seconds * 1000)))
        return bool(await self._server.insist(key, command))

    async def resign(self, name: str, holder: str) -> None:
        """Give up a named lease; see `Coordinating.resign`."""
        key = self._keys.lead(name)
        await self._server.insist(key, LEAD((key,), holder, 0))

    async def keys_in_use(self, queue: str, *, limit: int = 100) -> list[KeyInUse]:
        """The policy keys in use; see `Policing.keys_in_use`."""
        keys = self._keys.of(queue)
        command = KEYS_IN_USE(keys[:4], max(limit, _KEYS_AT_ONCE))
        return in_use(await self._server.insist(keys.stream, command), limit)

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The queue's pauses, by name."""
        return await self.values(queue, PAUSES)

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause; see `Pausing.pause`."""
        stream = self._keys.of(queue).stream
        await self._put_and_register([(stream, PAUSE((stream,), name, value))], {queue})

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause; see `Pausing.resume`."""
        keys = self._keys.of(queue)
        number = pause_number(name) if name else 0
        command = RESUME(keys[:3], name, number, _AT_ONCE)
        was_paused, woken = await self._server.insist(keys.stream, command)
        some = woken
        while some == _AT_ONCE:
            _, some = await self._server.insist(keys.stream, command)
        return bool(was_paused or woken)

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind; see `Remembering.values`."""
        key = self._keys.of(queue).kind(kind)
        found = await self._server.insist(key, VALUES((key,)))
        pairs = zip(found[::2], found[1::2], strict=True)
        return {name.decode("utf-8", "replace"): value for name, value in pairs}

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value; see `Remembering.value`."""
        key = self._keys.of(queue).kind(kind)
        value: bytes | None = await self._server.insist(key, VALUE((key,), name))
        return value

    async def set_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        ttl_seconds: float | None = None,
        wakes: bool = False,
    ) -> None:
        """Keep a value, or delete it; see `Remembering.set_value`."""
        key = self._keys.of(queue).kind(kind)
        ttl_ms = 0 if ttl_seconds is None else max(1, round(ttl_seconds * 1000))
        is_kept = int(value is not None)
        command = SET_VALUE((key,), name, is_kept, value or b"", ttl_ms, int(wakes))
        await self._server.insist(key, command)

    async def changed_value(
        self, queue: str, kind: str, name: str, known: bytes | None, timeout_seconds: float
    ) -> bytes | None:
        """Wait until a value is another than the known one; see `Remembering.changed_value`."""
        keys = self._keys.of(queue)
        command = VALUE((keys.kind(kind),), name)
        return await self._awaited.until(
            keys.value(kind, name), command, lambda value: value != known, timeout_seconds
        )

    async def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind; see `Remembering.delete_values`."""
        key = self._keys.of(queue).kind(kind)
        await self._until_none(key, DELETE_VALUES((key,), _AT_ONCE))

    async def replace_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        expected: bytes | None,
        messages: Sequence[Outgoing] = (),
        wakes: bool = False,
    ) -> bool:
        """Replace a value if it is `expected`; see `Remembering.replace_value`.

        Sent only once: a retry after a lost answer would find its own value and report failure.
        """
        keys = self._keys.of(queue)
        command = REPLACE_VALUE(
            (*keys[:4], keys.kind(kind)),
            name,
            int(value is not None),
            value or b"",
            int(expected is not None),
            expected or b"",
            int(any(map(is_asking, messages))),
            int(wakes),
            *(_asking_arguments if any(map(is_asking, messages)) else _arguments)(messages),
        )
        calls: list[Call] = [(keys.stream, command)]
        queues = {queue} if messages else set()
        if not queues <= self._known_queues:
            registry = self._keys.queues
            calls.append((registry, REGISTER((registry,), queue)))
        replaced, *refusal = await self._server.call_many(calls)
        self._note_registered(queues, *refusal)
        return bool(replaced)

    async def check(self) -> list[Finding]:
        """What `asynctasq doctor` reports about the server."""
        return await check_server(self._server, self._keys)

    def describe(self) -> str:
        """The server's kind and address."""
        return self._server.address.name

    async def close(self) -> None:
        """Close all connections; the broker can be used again afterwards."""
        await self._awaited.close()
        await self._server.close()
        self._known_queues.clear()

    def _puts(self, queue: str, messages: Sequence[Outgoing]) -> Iterator[Call]:
        keys = self._keys.of(queue)
        least = _ASKING_BYTES if any(map(is_asking, messages)) else 0
        for page in _pages(messages, lambda message: max(least, len(message.body))):
            if any(map(is_asking, page)):
                yield keys.stream, PUT_ASKING(keys[:4], *_asking_arguments(page))
            else:
                yield keys.stream, PUT(keys[:4], *_arguments(page))

    async def _put_and_register(self, calls: list[Call], queues: set[str]) -> list[Any]:
        """Put and register in one round trip; if the registry refuses, queues are only not listed.

        The messages are kept in any case.
        """
        registry = self._keys.queues
        *replies, refusal = await self._server.insist_many(
            [*calls, (registry, REGISTER((registry,), *sorted(queues)))]
        )
        self._note_registered(queues, refusal)
        return replies

    def _note_registered(self, queues: set[str], refusal: bytes = b"") -> None:
        if refusal:
            text = refusal.decode("utf-8", "replace")
            logger.error("queues are not listed: %s", text, extra={"queues": sorted(queues)})
        self._known_queues |= queues

    async def _until_none(self, key: bytes, command: Command) -> int:
        total = 0
        while True:
            count: int = await self._server.insist(key, command)
            if not count:
                return total
            total += count


def _arguments(messages: Sequence[Outgoing]) -> list[bytes | str | int]:
    arguments: list[bytes | str | int] = []
    for message in messages:
        arguments += (message.id, message.body, _due_ms(message.due))
    return arguments


def _asking_arguments(messages: Sequence[Outgoing]) -> list[bytes | str | int]:
    arguments: list[bytes | str | int] = []
    for message in messages:
        arguments += (message.id, message.body, _due_ms(message.due), packed(message))
    return arguments


def _conflicts(replies: Sequence[Any]) -> dict[str, str] | None:
    """The holders of the keys that kept messages from being added; plain puts reply a number."""
    conflicts: dict[str, str] = {}
    for reply in replies:
        if type(reply) is list:
            texts = [text.decode("utf-8", "replace") for text in reply]
            conflicts.update(zip(texts[::2], texts[1::2], strict=True))
    return conflicts or None


def _due_ms(due: float | None) -> bytes | int:
    if due is None or due <= time.time():
        return b""
    return round(due * 1000)


def _pages(items: Sequence[T], size: Callable[[T], int]) -> Iterator[Sequence[T]]:
    first = page_bytes = 0
    for i, item in enumerate(items):
        page_bytes += size(item)
        if i - first == _AT_ONCE or (page_bytes > _BYTES_AT_ONCE and i > first):
            yield items[first:i]
            first, page_bytes = i, size(item)
    if items:
        yield items[first:]


def _dead_letter(queue: str, message_id: bytes, died_at_ms: bytes, letter: bytes) -> DeadLetter:
    info_end = 4 + int.from_bytes(letter[:4], "big")
    return DeadLetter(
        queue,
        message_id.decode("utf-8", "replace"),
        letter[info_end:],
        letter[4:info_end],
        float(died_at_ms) / 1000,
    )
