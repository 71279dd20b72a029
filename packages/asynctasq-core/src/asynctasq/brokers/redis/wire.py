"""One connection to Redis, used by one caller at a time.

Owns two invariants. Every wait is bounded. A connection whose exchange was cut short, by an error,
a timeout or a cancellation, is closed rather than reused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from .scripts import Command, with_source

try:
    from hiredis import pack_command
except ImportError:
    _pack: Callable[[Any], Any] | None = None
else:
    _pack = pack_command


#: What event loops raise, besides `OSError`, when the transport is gone. uvloop raises a
#: `RuntimeError` ("the handler is closed") on any write to a closed transport.
LOOP_ERRORS = (RuntimeError, EOFError)


class Wire:
    """A connection that opens on first use, and again after a failure.

    It uses redis-py's connection but not its client, which spends more time on a command than the
    server does: a task for each bounded write, checks of a pooled connection.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    @property
    def is_open(self) -> bool:
        """Whether the connection is up and no exchange on it was cut short."""
        return bool(self._connection.is_connected)

    async def ask(self, command: Command, timeout_seconds: float) -> Any:
        """Send a command and return the answer.

        Raises:
            TimeoutError: There was no answer within `timeout_seconds`, including connecting.
            RedisError: Raised by redis-py; a refusal leaves the connection usable.
        """
        (reply,) = await self.ask_all((command,), timeout_seconds)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def ask_all(self, commands: Sequence[Command], timeout_seconds: float) -> list[Any]:
        """Send commands together and return their answers; a refusal is returned as an error."""
        async with asyncio.timeout(timeout_seconds):
            replies = await self._exchange_again_if_stale(commands)
            for i, reply in enumerate(replies):
                if isinstance(reply, NoScriptError):
                    (replies[i],) = await self._exchange((with_source(commands[i]),))
        return replies

    async def _exchange_again_if_stale(self, commands: Sequence[Command]) -> list[Any]:
        was_open = self.is_open
        try:
            return await self._exchange(commands)
        except LostConnection as e:
            # The server may have closed the connection while it was idle. Subclasses of this error
            # are answers from the server.
            if not was_open or type(e) is not LostConnection:
                raise
        return await self._exchange(commands)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self._send(commands)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await self.read())
            except ResponseError as e:
                if str(e).startswith("Protocol error"):  # the server says nothing after this
                    await self.close()
                    raise
                replies.append(e)
        return replies

    async def _send(self, commands: Sequence[Command]) -> None:
        try:
            await self._connect_and_send(commands)
        except LOOP_ERRORS as e:
            raise LostConnection(f"connection lost: {e}") from e

    async def _connect_and_send(self, commands: Sequence[Command]) -> None:
        connection = self._connection
        if (writer := connection._writer) is not None and writer.is_closing():
            # Never write to it: asyncio's `writelines`, from Python 3.12 on, would leave a handler
            # behind at its file descriptor, and the next connection to get that would never open.
            await self.close()
            raise LostConnection("connection lost while it was idle")
        if not connection.is_connected:
            await connection.connect()
        packed: Any
        if _pack is not None:
            packed = [_pack(command) for command in commands]
        else:
            packed = connection.pack_commands(commands)
        await connection.send_packed_command(packed, check_health=False)

    async def read(self) -> Any:
        """The next reply or message from the server; waits without limit."""
        try:
            return await self._connection.read_response()
        except LOOP_ERRORS as e:
            raise LostConnection(f"connection lost: {e}") from e

    async def send(self, commands: Sequence[Command], timeout_seconds: float) -> None:
        """Send commands whose answers are to be read with `read`."""
        async with asyncio.timeout(timeout_seconds):
            await self._send(commands)

    async def close(self) -> None:
        """Close the connection without waiting for the other side."""
        await self._connection.disconnect(nowait=True)

    async def end(self) -> None:
        """Close the connection gracefully, with the TLS closing handshake if the peer is quick."""
        with suppress(RedisError, OSError, *LOOP_ERRORS):
            await self._connection.disconnect()
