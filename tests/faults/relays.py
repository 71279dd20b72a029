"""A TCP relay in front of a server, which breaks connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

#: Passes on what the server answered; `False` ends the connection.
Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[bool]]


async def whole(data: bytes, client: asyncio.StreamWriter) -> bool:
    """As it comes."""
    client.write(data)
    await client.drain()
    return True


async def byte_by_byte(data: bytes, client: asyncio.StreamWriter) -> bool:
    """In packets of one byte."""
    for i in range(len(data)):
        client.write(data[i : i + 1])
        await asyncio.sleep(0)
    return True


async def reset(data: bytes, client: asyncio.StreamWriter) -> bool:
    """Not at all, but a reset (RST)."""
    _reset(client)
    return False


async def closed(data: bytes, client: asyncio.StreamWriter) -> bool:
    """Not at all, but an end (FIN)."""
    return False


async def half_closed(data: bytes, client: asyncio.StreamWriter) -> bool:
    """Not at all: the server's side ends, and goes on to read."""
    if not client.is_closing():
        client.write_eof()
    return True


async def cut(data: bytes, client: asyncio.StreamWriter) -> bool:
    """The first half, then an end."""
    client.write(data[: max(1, len(data) // 2)])
    return False


async def cut_and_reset(data: bytes, client: asyncio.StreamWriter) -> bool:
    """The first half, then a reset."""
    client.write(data[: max(1, len(data) // 2)])
    _reset(client)
    return False


async def swallowed(data: bytes, client: asyncio.StreamWriter) -> bool:
    """Not at all, without a word."""
    return True


def _reset(client: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        connection: socket.socket = client.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abort()


class Relay:
    """Passes on what clients send, and what the server answers as `reply` says.

    It runs in a thread of its own.

    Attributes:
        port: Where it listens.
        reply: How answers are passed on, from the next one on.
        is_stalled: While set, all that is sent in either direction is lost without a word.
        is_down: While set, new connections are reset.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.reply: Reply = whole
        self.is_stalled = False
        self.is_down = False
        self.port = 0
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()])

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._listening.wait(10)

    def reset_all(self) -> None:
        """Reset every connection that is open now."""

        async def reset_them() -> None:
            for client in list(self._clients):
                _reset(client)

        asyncio.run_coroutine_threadsafe(reset_them(), self._loop).result(10)

    def stop(self) -> None:
        """End every connection and listen no more."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(10)
        self._loop.close()

    async def _run(self) -> None:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._listening.set()
        await self._ending.wait()
        listener.close()
        for client in list(self._clients):
            client.transport.abort()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.is_down:
            _reset(client)
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            client.transport.abort()
            return
        self._clients.add(client)
        ways = {
            asyncio.create_task(self._ask(reader, server)),
            asyncio.create_task(self._answer(answers, client)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            server.transport.abort()
            client.close()
            for way in ways:
                way.cancel()

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.is_stalled:
                    server.write(data)
                    await server.drain()

    async def _answer(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await answers.read(65536):
                if not self.is_stalled and not await self.reply(data, client):
                    break


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    """A relay for the length of a block."""
    started = Relay(port)
    started.start()
    try:
        yield started
    finally:
        started.stop()
