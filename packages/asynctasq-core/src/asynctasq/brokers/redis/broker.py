"""The Redis broker: everything except consuming.

A queue is a stream with a consumer group. A lease is an entry in the group's pending list, so the
blocking read that delivers a message also leases it, atomically. Every other transition is one Lua
script.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

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
from .asks import in_use
from .awaited import Awaited
from .config import RedisConfig
from .consumer import RedisConsumer
from .dead_letters import DeadLetters
from .doctor import check_server
from .keys import Keys
from .pages import AT_ONCE
from .putting import conflicts, puts
from .registry import alive_workers, release_worker, withdrawal
from .remembered_values import RememberedValues
from .scripts import (
    CANCEL,
    FIND_HELD,
    HELD,
    KEYS_IN_USE,
    LEAD,
    PAUSE,
    PURGE,
    REGISTER,
    RESUME,
    STATE,
    STATS,
)
from .server import Request, Server

logger = logging.getLogger(__name__)

#: Maximum lines, limits, rates and unique keys (of each) that a look at the keys in use covers.
_KEYS_AT_ONCE = 500


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
        self._dead = DeadLetters(self._server, self._keys)
        self._values = RememberedValues(self._server, self._keys)
        self._known_queues: set[str] = set()

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add messages; see `Broker.put`."""
        if not messages:
            return None
        queues = {message.queue for message in messages}
        requests = puts(self._keys, messages)
        if queues <= self._known_queues:
            replies = await self._server.insist_many(requests)
        else:
            replies = await self._put_and_register(requests, queues - self._known_queues)
        return conflicts(replies)

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
        requests = []
        for queue in queues:
            keys = self._keys.of(queue)
            its_keys = (keys.stream, keys.delayed, keys.dead, keys.bodies, keys.ids)
            requests.append((keys.stream, STATS(its_keys)))
        counts = await self._server.insist_many(requests) if requests else []
        return [QueueStats(queue, *some) for queue, some in zip(queues, counts, strict=True)]

    async def workers(self) -> list[WorkerInfo]:
        """Workers that have shown a sign of life within their lease."""
        return await alive_workers(self._server, self._keys)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the queue's dead letters, newest first."""
        return await self._dead.newest(queue, limit, offset)

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters among these ids."""
        return await self._dead.find(queue, message_ids)

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
        return await self._dead.retry(queue, bodies)

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete these dead letters, or all in the queue; return how many."""
        return await self._dead.purge(queue, message_ids)

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed in the queue; return how many."""
        keys = self._keys.of(queue)
        return await self._server.insist_until_none(keys.stream, PURGE(keys[:4]))

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
        command = KEYS_IN_USE(keys[:4], _KEYS_AT_ONCE)
        return in_use(await self._server.insist(keys.stream, command), limit)

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The queue's pauses, by name."""
        return await self.values(queue, PAUSES)

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause; see `Pausing.pause`."""
        stream = self._keys.of(queue).stream
        command = PAUSE((stream,), name, value, _number(name))
        await self._put_and_register([(stream, command)], {queue})

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause; see `Pausing.resume`."""
        keys = self._keys.of(queue)
        command = RESUME(keys[:3], name, _number(name), AT_ONCE)
        was_paused, woken = await self._server.insist(keys.stream, command)
        some = woken
        while some == AT_ONCE:
            _, some = await self._server.insist(keys.stream, command)
        return bool(was_paused or woken)

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind; see `Remembering.values`."""
        return await self._values.all(queue, kind)

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value; see `Remembering.value`."""
        return await self._values.get(queue, kind, name)

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
        await self._values.set(queue, kind, name, value, ttl_seconds, wakes=wakes)

    async def changed_value(
        self, queue: str, kind: str, name: str, known: bytes | None, timeout_seconds: float
    ) -> bytes | None:
        """Wait until a value is another than the known one; see `Remembering.changed_value`."""
        channel = self._keys.of(queue).value(kind, name)
        command = self._values.reading(queue, kind, name)
        return await self._awaited.until(
            channel, command, lambda value: value != known, timeout_seconds
        )

    async def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind; see `Remembering.delete_values`."""
        await self._values.delete_all(queue, kind)

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
        command = self._values.replacement(
            queue, kind, name, value, expected, messages, wakes=wakes
        )
        requests: list[Request] = [(self._keys.of(queue).stream, command)]
        queues = {queue} if messages else set()
        if not queues <= self._known_queues:
            registry = self._keys.queues
            requests.append((registry, REGISTER((registry,), queue)))
        replaced, *refusal = await self._server.call_many(requests)
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

    async def _put_and_register(self, requests: list[Request], queues: set[str]) -> list[Any]:
        """Put and register in one round trip; if the registry refuses, queues are only not listed.

        The messages are kept in any case.
        """
        registry = self._keys.queues
        *replies, refusal = await self._server.insist_many(
            [*requests, (registry, REGISTER((registry,), *sorted(queues)))]
        )
        self._note_registered(queues, refusal)
        return replies

    def _note_registered(self, queues: set[str], refusal: bytes = b"") -> None:
        if refusal:
            text = refusal.decode("utf-8", "replace")
            logger.error("queues are not listed: %s", text, extra={"queues": sorted(queues)})
        self._known_queues |= queues


def _number(pause: str) -> int:
    return pause_number(pause) if pause else 0
