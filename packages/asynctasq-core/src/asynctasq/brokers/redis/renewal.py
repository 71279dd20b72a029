"""Renews leases from a separate thread, so that a blocked event loop does not lose them.

The thread has its own event loop and connections, made in the same way as all others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ...errors import BrokerUnavailable
from .. import ConsumerOptions, Delivery
from .config import RedisConfig
from .keys import Keys
from .registry import announcement
from .scripts import RENEW
from .server import Request, Server
from .settlements import ADMITTED, enclosing, entry_of

#: Maximum entries per script call: Lua can unpack at most 8,000 values.
_RENEWED_AT_ONCE = 1000
#: Seconds that a renewal waits for its answer before it is sent again, so that a lost packet costs
#: no more than this.
_ANEW_SECONDS = 0.2


class Renewal:
    """Renews leases; used by one thread at a time, which must not run an event loop."""

    def __init__(
        self, config: RedisConfig, keys: Keys, options: ConsumerOptions, consumer: bytes
    ) -> None:
        self._config = config
        self._keys = keys
        self._options = options
        self._consumer = consumer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server
        self._announce_at = 0.0

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew these leases and give a sign of life; return the deliveries that were lost.

        Raises:
            BrokerUnavailable: The server cannot be reached; the next call reconnects.
        """
        by_stream: dict[bytes, dict[bytes, Delivery]] = {}
        for delivery in held:
            keys = self._keys.of(delivery.queue)
            stream = keys.admitted if delivery.tag[:1] == ADMITTED else keys.stream
            by_stream.setdefault(stream, {})[entry_of(delivery)] = delivery
        requests: list[Request] = []
        renewed: list[dict[bytes, Delivery]] = []
        for stream, deliveries in by_stream.items():
            for entries in _pages(list(deliveries)):
                requests.append(
                    (stream, RENEW((stream,), self._consumer, *enclosing(entries), *entries))
                )
                renewed.append(deliveries)
        replies = self._ask(requests)
        return [
            deliveries[entry]
            for deliveries, entries in zip(renewed, replies, strict=True)
            for entry in entries
        ]

    def close(self) -> None:
        """Close the connections."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run_until_complete(self._server.close())
            loop.close()

    def _ask(self, requests: list[Request]) -> list[Any]:
        """Send these requests, with a sign of life every third of the lease; return the answers."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._server = Server(self._config)
        now, lease_seconds = time.monotonic(), self._options.lease_seconds
        announces = now >= self._announce_at
        if announces:
            requests = [*requests, (self._keys.queues, announcement(self._keys, self._options))]
        if not requests:
            return []
        replies = self._loop.run_until_complete(self._first_answer(requests))
        if announces:
            self._announce_at = now + lease_seconds / 3
            replies.pop()
        return replies

    async def _first_answer(self, requests: Sequence[Request]) -> list[Any]:
        """Race one patient request against short repeated ones; return the first answer.

        The patient request serves a slow server, the short ones a network that loses packets.
        """
        limit = min(self._config.timeout, self._options.lease_seconds / 3)
        patient = asyncio.ensure_future(self._server.call_many(requests, limit))
        anew = asyncio.ensure_future(self._anew(requests))
        try:
            await asyncio.wait({patient, anew}, return_when=asyncio.FIRST_COMPLETED)
            return (patient if patient.done() else anew).result()
        finally:
            for request in (patient, anew):
                request.cancel()
            await asyncio.gather(patient, anew, return_exceptions=True)

    async def _anew(self, requests: Sequence[Request]) -> list[Any]:
        while True:
            await asyncio.sleep(_ANEW_SECONDS)
            with suppress(BrokerUnavailable):
                return await self._server.call_many(requests, _ANEW_SECONDS)


def _pages(entries: list[bytes]) -> Iterator[list[bytes]]:
    for i in range(0, len(entries), _RENEWED_AT_ONCE):
        yield entries[i : i + _RENEWED_AT_ONCE]
