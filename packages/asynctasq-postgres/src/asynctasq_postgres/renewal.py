"""Renews leases from a separate thread, so that a blocked event loop does not lose them.

The thread has its own event loop and its own connections, made like all others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from asynctasq import BrokerUnavailable
from asynctasq.brokers import ConsumerOptions, Delivery

from .address import Address
from .server import Server

#: Seconds to wait for the answer to a renewal before sending it again. If the network swallowed it,
#: that costs no more time than this.
_ANEW_SECONDS = 0.2
#: With nothing held, and to check for leases the consumer does not know it has, one renewal in this
#: fraction of a lease is enough.
_SELDOM = 1 / 3


class Renewal:
    """Renews leases; used by one thread at a time, which must not run an event loop itself."""

    def __init__(self, address: Address, options: ConsumerOptions) -> None:
        self._address = address
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server
        self._seldom_at = 0.0
        self._was_blocked = options.worker.is_blocked
        self._sql = f"SELECT {address.schema}.renew($1, $2, $3, $4, $5, $6)"

    def open(self, worker: int) -> None:
        """Connect, and give a sign of life; there is no lease yet that would make it urgent.

        Raises:
            BrokerUnavailable: The server cannot be reached; the next call reconnects.
        """
        options, loop = self._options, self._own_loop()
        arguments = (worker, options.lease_seconds, (), (), True, options.worker.is_blocked)
        loop.run_until_complete(self._ask(arguments, self._server.timeout_seconds))

    def renew(self, worker: int, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew these leases and give a sign of life; return the deliveries that were lost.

        Raises:
            BrokerUnavailable: The server cannot be reached; the next call reconnects.
        """
        now, lease_seconds = time.monotonic(), self._options.lease_seconds
        is_blocked = self._options.worker.is_blocked
        is_time = now >= self._seldom_at
        if not held and not is_time and is_blocked == self._was_blocked:
            return []
        messages = [delivery.tag.message for delivery in held]
        leases = [delivery.tag.lease for delivery in held]
        arguments = (worker, lease_seconds, messages, leases, is_time, is_blocked)
        lost = self._own_loop().run_until_complete(self._first_answer(arguments))
        self._was_blocked = is_blocked
        if is_time:
            self._seldom_at = now + lease_seconds * _SELDOM
        return [held[turn - 1] for turn in lost or ()]

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._server = Server(self._address, pool_size=3)
        return self._loop

    def close(self) -> None:
        """Close the connections."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run_until_complete(self._server.close())
            loop.close()

    async def _first_answer(self, arguments: tuple[object, ...]) -> list[int] | None:
        """The first answer to one of two requests: a patient one, and one sent again.

        The first copes with a slow server, the second with a network that lost the first.
        """
        limit = min(self._server.timeout_seconds, self._options.lease_seconds / 3)
        patient = asyncio.ensure_future(self._ask(arguments, limit))
        anew = asyncio.ensure_future(self._anew(arguments))
        try:
            await asyncio.wait({patient, anew}, return_when=asyncio.FIRST_COMPLETED)
            return (patient if patient.done() else anew).result()
        finally:
            for request in (patient, anew):
                request.cancel()
            await asyncio.gather(patient, anew, return_exceptions=True)

    async def _anew(self, arguments: tuple[object, ...]) -> list[int] | None:
        while True:
            await asyncio.sleep(_ANEW_SECONDS)
            with suppress(BrokerUnavailable):
                return await self._ask(arguments, _ANEW_SECONDS)

    async def _ask(self, arguments: tuple[object, ...], limit: float) -> list[int] | None:
        lost: list[int] | None = await self._server.value(
            self._sql, *arguments, timeout_seconds=limit
        )
        return lost
