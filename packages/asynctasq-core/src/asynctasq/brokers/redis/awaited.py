"""Waits for results and changes of values on one connection, however many calls wait.

Whoever writes what a call may wait for publishes to its channel. A waiting call looks when the
server has confirmed its subscription, and again whenever something is published, so that nothing is
missed between two looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from redis.exceptions import NoPermissionError

from ...errors import BrokerError, BrokerUnavailable
from .. import Backoff
from .failures import TRANSPORT_ERRORS, broker_error
from .scripts import Command
from .server import Server
from .wire import Wire

#: Seconds of silence from the server after which to reconnect.
_QUIET_SECONDS = 15.0


class Awaited:
    """What calls in this process wait for."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: dict[bytes, list[asyncio.Event]] = {}
        self._unwanted: set[bytes] = set()
        self._wire: Wire | None = None
        self._sending = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._refusal: BrokerError | None = None

    async def until(
        self,
        channel: bytes,
        command: Command,
        is_awaited: Callable[[bytes | None], bool],
        timeout_seconds: float,
    ) -> bytes | None:
        """What the command answers as soon as it is awaited, or after `timeout_seconds`.

        Args:
            channel: Published to when the answer may have changed; lies in the slot of its keys.

        Raises:
            BrokerUnavailable: The server was unreachable when the time ran out.
            BrokerError: The server does not allow this user to subscribe.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds

        async def look() -> tuple[bool, bytes | None]:
            try:
                found: bytes | None = await self._server.call(channel, command)
            except BrokerUnavailable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                return False, None
            return is_awaited(found), found

        is_there, found = await look()
        if is_there or timeout_seconds <= 0:
            return found
        with self._registered(channel) as woken:
            await self._subscribe(channel)
            while await _is_set(woken, deadline):
                if self._refusal is not None:
                    raise self._refusal
                is_there, found = await look()
                if is_there:
                    return found
        return (await look())[1]

    async def close(self) -> None:
        """Stop listening."""
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @contextmanager
    def _registered(self, channel: bytes) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        self._waiting.setdefault(channel, []).append(woken)
        self._unwanted.discard(channel)
        try:
            yield woken
        finally:
            events = self._waiting[channel]
            events.remove(woken)
            if not events:
                del self._waiting[channel]
                self._unwanted.add(channel)

    async def _subscribe(self, channel: bytes) -> None:
        if self._listening is None or self._listening.done():
            self._refusal = None
            self._listening = asyncio.create_task(self._listen())
        elif self._wire is not None:
            # A failure also ends the listener's read; the listener then subscribes to everything.
            with suppress(*TRANSPORT_ERRORS):
                await self._send(self._wire, channel)

    async def _send(self, wire: Wire, *channels: bytes) -> None:
        async with self._sending:
            unwanted, self._unwanted = self._unwanted, set()
            commands = [(b"SUBSCRIBE", *channels)] if channels else []
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
            # Set this first: later callers wait for `_sending` and then add their own channel.
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

    def _wake(self, *channels: bytes) -> None:
        for channel in channels:
            for woken in self._waiting.get(channel, ()):
                woken.set()


async def _is_set(event: asyncio.Event, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
