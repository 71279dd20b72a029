"""Reading the queues that one round trip can reach together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import BrokerUnavailable
from .. import Delivery
from .failures import code_of
from .keys import Keys
from .scripts import TAKE
from .server import Server


@dataclass(slots=True)
class Scan:
    """What a look at a lane has leased.

    Attributes:
        next_due_seconds: Until the next delayed message is due, as far as a sweep can tell.
        found: All of it, in order of priority.
        claimed: Those of it that were released or whose lease had run out.
    """

    next_due_seconds: float
    found: list[Delivery] = field(default_factory=list)
    claimed: list[Delivery] = field(default_factory=list)


class Lane:
    """Queues of one consumer whose keys live in one place, in order of priority."""

    def __init__(self, server: Server, keys: Keys, queues: Sequence[str], consumer: bytes) -> None:
        self._server = server
        self._queues = tuple(queues)
        self._consumer = consumer
        queue_keys = [keys.of(queue) for queue in queues]
        self._keys = tuple(key for each in queue_keys for key in each[:4])
        self._streams = tuple(each.stream for each in queue_keys)
        self._queue_of = dict(zip(self._streams, self._queues, strict=True))

    async def scan(self, limit: int, sweep: bool) -> Scan:
        """Lease what is there, without waiting.

        Args:
            limit: Most messages to lease; 0 only sweeps.
            sweep: Whether to look for released, expired and due messages too.
        """
        try:
            reply = await self._take(limit, sweep)
        except BrokerUnavailable as e:
            if sweep or not _is_emptied(e):
                raise
            reply = await self._take(limit, True)
        scan = Scan(math.inf if reply[0] < 0 else max(0.001, reply[0] / 1000))
        for queue_index, claimed, counts, new in reply[1:]:
            queue = self._queues[queue_index]
            again = [_delivery(queue, e, n) for e, n in zip(claimed, counts, strict=True)]
            scan.claimed += again
            scan.found += again
            scan.found += [_delivery(queue, entry, 1) for entry in new]
        return scan

    async def read(self, limit: int, wait_seconds: float) -> list[Delivery]:
        """Lease new messages as soon as there are any.

        Over several queues one message of each may come, `limit` or not.

        Args:
            wait_seconds: How long to wait for the first; 0 or less does not wait.
        """
        count = limit if len(self._streams) == 1 else 1
        block_ms = math.ceil(wait_seconds * 1000)
        block = (b"BLOCK", block_ms) if block_ms > 0 else ()
        head = (b"XREADGROUP", b"GROUP", b"workers", self._consumer, b"COUNT", count)
        after = (b">",) * len(self._streams)
        command = (*head, *block, b"STREAMS", *self._streams, *after)
        limit_seconds = self._server.timeout_seconds + max(0.0, wait_seconds)
        try:
            reply = await self._server.call(self._streams[0], command, limit_seconds)
        except BrokerUnavailable as e:
            if not _is_emptied(e):
                raise
            await self._take(0, True)
            return []
        queue_of = self._queue_of
        return [
            _delivery(queue_of[stream], entry, 1)
            for stream, entries in reply or ()
            for entry in entries
        ]

    async def _take(self, limit: int, sweep: bool) -> Any:
        command = TAKE(self._keys, self._consumer, limit, int(sweep))
        return await self._server.call(self._keys[0], command)


def _is_emptied(error: BrokerUnavailable) -> bool:
    cause = error.__cause__
    return cause is not None and code_of(cause) in ("NOGROUP", "UNBLOCKED")


def _delivery(queue: str, entry: Sequence[Any], deliveries: int) -> Delivery:
    tag, fields = entry
    if fields and len(fields) >= 4:
        return Delivery(queue, fields[1].decode("utf-8", "replace"), fields[3], deliveries, tag)
    # Not written by us: handed on under the entry's own id, to end among the dead letters.
    return Delivery(queue, tag.decode(), b"", deliveries, tag)
