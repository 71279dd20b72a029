"""Reads the queues that a single round trip can reach."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import BrokerError
from .. import Delivery
from .failures import code_of
from .keys import Keys
from .scripts import READ, SWEEP, Command
from .server import Server
from .settlements import AdmittedTag

logger = logging.getLogger(__name__)

#: Maximum bytes of one blocking read, so that the server's other clients do not wait long; and the
#: number of messages that the first read asks for, before their size is known.
_BYTES_AT_ONCE, _FIRST_COUNT = 1024 * 1024, 32
#: Longest id accepted. Ours have 32 bytes, and dead letters are found by id, so ids are kept short.
_LONGEST_ID_BYTES = 200
#: The entry that `lines.lua` adds only to wake a consumer.
_WAKE_UP = [b"wake", b""]
#: The fields of an entry; `lease.lua` explains `extra`.
_FIELDS = ([b"id", b"body"], [b"id", b"body", b"extra"])


@dataclass(slots=True)
class Sweep:
    """What a sweep has leased.

    Attributes:
        next_due_seconds: Seconds until the next sweep is worthwhile, as far as this one could tell.
        found: All leased messages, in order of priority.
        claimed: Those of them that had been released or whose lease had expired.
        is_asking: Whether a queue has messages that ask for something.
    """

    next_due_seconds: float
    found: list[Delivery] = field(default_factory=list)
    claimed: list[Delivery] = field(default_factory=list)
    is_asking: bool = False


class Shard:
    """One consumer's queues whose keys live in one place, in order of priority."""

    def __init__(self, server: Server, keys: Keys, queues: Sequence[str], consumer: bytes) -> None:
        self._server = server
        self._queues = tuple(queues)
        self._consumer = consumer
        queue_keys = [keys.of(queue) for queue in queues]
        self._keys = tuple(key for each in queue_keys for key in (*each[:4], each.look))
        self._all_streams = tuple(each.stream for each in queue_keys)
        self._streams = self._all_streams
        self._spoilt: frozenset[int] = frozenset()
        self._count = _FIRST_COUNT
        #: Streams of queues with pauses, which only sweeps read, and the last entry of each.
        self._fenced: dict[bytes, bytes] = {}
        #: Whether a read has found an entry that announces work for a sweep.
        self.is_woken = False
        self._queue_of = dict(zip(self._all_streams, self._queues, strict=True))

    async def sweep(self, limit: int) -> Sweep:
        """Move what is due, and lease what is there without waiting.

        Args:
            limit: Maximum number of messages to lease; 0 leases none.
        """
        command = SWEEP(self._keys, self._consumer, limit)
        reply = await self._server.call(self._keys[0], command)
        sweep = Sweep(math.inf if reply[0] < 0 else max(0.001, reply[0] / 1000))
        self._note_spoilt(frozenset(reply[1]))
        pauses: dict[str, dict[str, bytes]] = {}
        self._fenced.clear()
        for queue_index, claimed, counts, *more in reply[2:]:
            queue = self._queues[queue_index]
            if not more:  # this part holds the queue's last entry and its pauses
                names = [name.decode("utf-8", "replace") for name in counts[::2]]
                pauses[queue] = dict(zip(names, counts[1::2], strict=True))
                if "" not in pauses[queue]:
                    self._fenced[self._all_streams[queue_index]] = claimed
                continue
            new, *admitted = more
            again = [_delivery(queue, e, n) for e, n in zip(claimed, counts, strict=True)]
            sweep.claimed += again
            sweep.found += again
            deliveries = [_delivery(queue, entry, 1) for entry in new]
            if admitted == [1]:
                for delivery, entry in zip(deliveries, new, strict=True):
                    delivery.tag = AdmittedTag.of(entry[0], entry[1][5] if entry[1][5:] else b"")
            sweep.found += deliveries
            sweep.is_asking |= bool(admitted)
        if pauses:
            for delivery in sweep.found:
                delivery.pauses = pauses.get(delivery.queue)
        return sweep

    @property
    def is_fenced(self) -> bool:
        """Whether some of its queues have pauses, so that only sweeps find their messages."""
        return bool(self._fenced)

    def _note_spoilt(self, spoilt: frozenset[int]) -> None:
        """Skip queues whose keys something has overwritten, until they are repaired."""
        for index in spoilt - self._spoilt:
            logger.error(
                "queue cannot be read: some of its keys hold another type; delete or rename them",
                extra={"queue": self._queues[index]},
            )
        self._spoilt = spoilt
        self._streams = tuple(s for i, s in enumerate(self._all_streams) if i not in spoilt)

    async def read_present(self, limit: int) -> list[Delivery]:
        """Lease new messages that are already there, without waiting."""
        streams = self._streams
        if not streams:
            return []
        command = READ(streams, self._consumer, limit)
        try:
            reply = await self._server.call(streams[0], command)
        except BrokerError as e:
            return await self._set_up_again(e)
        return self._deliveries((streams[stream_index], entries) for stream_index, entries in reply)

    async def read_next(self, limit: int, wait_seconds: float) -> list[Delivery]:
        """Lease new messages as soon as there are any.

        With several queues, one message from each may come, even if that exceeds `limit`.

        Args:
            wait_seconds: How long to wait for the first; 0 or less does not wait.
        """
        if not self._streams:
            await asyncio.sleep(max(0.0, wait_seconds))
            return []
        if self._fenced:
            await self._wait_for_entries(wait_seconds)
            return []
        count = min(limit, self._count) if len(self._streams) == 1 else 1
        block_ms = math.ceil(wait_seconds * 1000)
        block = (b"BLOCK", block_ms) if block_ms > 0 else ()
        head = (b"XREADGROUP", b"GROUP", b"workers", self._consumer, b"COUNT", count)
        after = (b">",) * len(self._streams)
        command = (*head, *block, b"STREAMS", *self._streams, *after)
        limit_seconds = self._server.timeout_seconds + max(0.0, wait_seconds)
        try:
            reply = await self._server.call(self._streams[0], command, limit_seconds)
        except BrokerError as e:
            return await self._set_up_again(e)
        found = self._deliveries(reply or ())
        if found:
            self._note_size(sum([len(delivery.body) for delivery in found]), len(found))
        return found

    async def _wait_for_entries(self, wait_seconds: float) -> None:
        """Wait until anything is added, and leave it to a sweep.

        For streams without pauses, only entries from now on count; the next sweep finds those that
        came since the last one.
        """
        after = [self._fenced.get(stream, b"$") for stream in self._streams]
        block_ms = max(1, math.ceil(wait_seconds * 1000))
        head: Command = (b"XREAD", b"COUNT", 1, b"BLOCK", block_ms, b"STREAMS")
        command = (*head, *self._streams, *after)
        limit_seconds = self._server.timeout_seconds + max(0.0, wait_seconds)
        self.is_woken |= bool(await self._server.call(self._streams[0], command, limit_seconds))

    def _deliveries(self, reply: Iterable[tuple[bytes, Sequence[Any]]]) -> list[Delivery]:
        """The messages read; an entry that only wakes is noted, so that a sweep follows."""
        found = []
        for stream, entries in reply:
            queue = self._queue_of[stream]
            for entry in entries:
                if entry[1] == _WAKE_UP:
                    self.is_woken = True
                else:
                    found.append(_delivery(queue, entry, 1))
        return found

    def _note_size(self, size_bytes: int, count: int) -> None:
        """Next time ask for as many as will probably fit, but never for many times more."""
        fitting = _BYTES_AT_ONCE * count // max(size_bytes, 1)
        self._count = max(1, min(fitting, 4 * max(count, _FIRST_COUNT)))

    async def _set_up_again(self, failure: BrokerError) -> list[Delivery]:
        """Recreate the groups if the read failed because keys were deleted or overwritten."""
        cause = failure.__cause__
        is_about_keys = cause is not None and (
            code_of(cause) in ("NOGROUP", "UNBLOCKED") or "WRONGTYPE" in str(cause)
        )
        if not is_about_keys:
            raise failure
        await self.sweep(0)
        return []


def _delivery(queue: str, entry: Sequence[Any], deliveries: int) -> Delivery:
    tag, fields = entry
    if fields and fields[::2] in _FIELDS and len(fields[1]) <= _LONGEST_ID_BYTES:
        if len(fields) > 4:
            deliveries += int.from_bytes(fields[5][:4], "big")
        return Delivery(queue, fields[1].decode("utf-8", "replace"), fields[3], deliveries, tag)
    # We did not write this; pass it on under the entry's id, so that it becomes a dead letter.
    return Delivery(queue, tag.decode(), b"", deliveries, tag)
