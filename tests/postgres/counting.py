"""A proxy before a PostgreSQL server that counts what clients ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_EXECUTE, _QUERY = b"E", b"Q"


class CountingProxy:
    """Passes everything on, and counts statements.

    Attributes:
        url: The server's, by way of the proxy.
        statements: How many were sent so far.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.url = ""
        self.statements = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection."""
        host, port = self._target.hostname or "localhost", self._target.port or 5432
        answers, server = await asyncio.open_connection(host, port)
        back = asyncio.create_task(self._answer(answers, writer))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            server.write(await self._body(reader))  # the only one without a kind
            while True:
                kind = await reader.readexactly(1)
                self.statements += kind in (_EXECUTE, _QUERY)
                server.write(kind + await self._body(reader))
        server.close()
        await asyncio.wait([back])

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        length = await reader.readexactly(4)
        return length + await reader.readexactly(int.from_bytes(length, "big") - 4)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@asynccontextmanager
async def counting(url: str) -> AsyncIterator[CountingProxy]:
    """A proxy before the server of a URL."""
    proxy = CountingProxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = urlsplit(url).username or "postgres"
    path = urlsplit(url).path
    proxy.url = f"postgresql://{user}@127.0.0.1:{port}{path}?sslmode=disable"
    yield proxy
    server.close()
