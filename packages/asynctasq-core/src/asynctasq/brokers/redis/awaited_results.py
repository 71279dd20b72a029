"""Waits for results on one connection, however many calls wait.

A result is a key; its writer publishes to the channel of the same name. A waiting call looks up the
key when the server has confirmed its subscription, and again whenever something is published, so
that no result is missed between two looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis.exceptions import NoPermissionError

from ...errors import BrokerError, BrokerUnavailable
from .. import Backoff
from .failures import TRANSPORT_ERRORS, broker_error
from .server import Server
from .wire import Wire

#: Seconds of silence from the server after which to reconnect.
_QUIET_SECONDS = 15.0


class AwaitedResults:
    """The results that calls in this process wait for."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: dict[bytes, list[asyncio.Event]] = {}
        self._unwanted: set[bytes] = set()
        self._wire: Wire | None = None
        self._sending = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._refusal: BrokerError | None = None

    async def wait(self, key: bytes, timeout_seconds: float) -> bytes | None:
        """The value of `key` as soon as it exists; `None` after `timeout_seconds`.

        Raises:
            BrokerUnavailable: The server was unreachable when the time ran out.
            BrokerError: The server does not allow this user to subscribe.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        found = await self._get(key, deadline)
        if found is not None or timeout_seconds <= 0:
            return found
        with self._registered(key) as woken:
            await self._subscribe(key)
            while await _is_set(woken, deadline):
                if self._refusal is not None:
                    raise self._refusal
                found = await self._get(key, deadline)
                if found is not None:
                    return found
        return await self._get(key, deadline)

    async def close(self) -> None:
        """Stop listening."""
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _get(self, key: bytes, deadline: float) -> bytes | None:
        try:
            value: bytes | None = await self._server.call(key, (b"GET", key))
        except BrokerUnavailable:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            return None
        return value

    @contextmanager
    def _registered(self, key: bytes) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        self._waiting.setdefault(key, []).append(woken)
        self._unwanted.discard(key)
        try:
            yield woken
        finally:
            events = self._waiting[key]
            events.remove(woken)
            if not events:
                del self._waiting[key]
                self._unwanted.add(key)

    async def _subscribe(self, key: bytes) -> None:
        if self._listening is None or self._listening.done():
            self._refusal = None
            self._listening = asyncio.create_task(self._listen())
        elif self._wire is not None:
            # A failure also ends the listener's read; the listener then subscribes to everything.
            with suppress(*TRANSPORT_ERRORS):
                await self._send(self._wire, key)

    async def _send(self, wire: Wire, *keys: bytes) -> None:
        async with self._sending:
            unwanted, self._unwanted = self._unwanted, set()
            commands = [(b"SUBSCRIBE", *keys)] if keys else []
            if unwanted:
                commands.append((b"UNSUBSCRIBE", *unwanted))
            await wire.send(commands, self._server.timeout_seconds)

    async def _listen(self) -> None:
        backoff = Backoff()
        while self._waiting:
            try:
                await self._listen_until_quiet(backoff)
            except NoPermissionError as e:
                self._refusal = broker_error(e, self._server.address.name)
                self._wake(*self._waiting)
                return
            except (*TRANSPORT_ERRORS, BrokerUnavailable):
                await asyncio.sleep(backoff.next())

    async def _listen_until_quiet(self, backoff: Backoff) -> None:
        wire = await self._server.open_wire(next(iter(self._waiting)))
        try:
            # Set this first: later callers wait for `_sending` and then add their own key.
            self._wire = wire
            self._unwanted.clear()
            await self._send(wire, *self._waiting)
            while True:
                async with asyncio.timeout(_QUIET_SECONDS):
                    message = await wire.read()
                backoff.reset()
                if message[0] != b"unsubscribe":
                    self._wake(message[1])
        except TimeoutError:
            return
        finally:
            self._wire = None
            await wire.close()

    def _wake(self, *keys: bytes) -> None:
        for key in keys:
            for woken in self._waiting.get(key, ()):
                woken.set()


async def _is_set(event: asyncio.Event, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
