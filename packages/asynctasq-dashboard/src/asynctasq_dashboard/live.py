"""Pages that follow what happens, through server-sent events.

Owns the rule that a stream is short: it ends after some seconds, and the browser asks again. So a
stopping server never waits long for one, and whoever loses the right to look soon stops seeing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import blake2b
from time import monotonic

from asynctasq import BrokerError
from starlette.responses import PlainTextResponse, Response, StreamingResponse

#: Time between two looks, and until a stream ends.
_LOOK_SECONDS, _STREAM_SECONDS = 2.0, 15.0

#: Maximum number of streams in one process at a time.
_MOST_STREAMS = 100


class Streams:
    """The streams of one dashboard."""

    def __init__(self) -> None:
        self._count = 0

    def answer(self, look: Callable[[], Awaitable[str]]) -> Response:
        """Send the result of a look, and send it again whenever it has changed."""
        if self._count >= _MOST_STREAMS:
            return PlainTextResponse("too many pages are open", 503)
        return StreamingResponse(
            self._stream(look),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    async def _stream(self, look: Callable[[], Awaitable[str]]) -> AsyncIterator[bytes]:
        self._count += 1
        before = b""
        end = monotonic() + _STREAM_SECONDS
        try:
            yield b"retry: 1000\n\n"
            while True:
                event, content = await _looked(look)
                now = blake2b(content.encode("utf-8", "backslashreplace")).digest()
                if now != before:
                    before = now
                    yield f"event: {event}\ndata: {json.dumps(content)}\n\n".encode()
                if monotonic() >= end:
                    return
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._count -= 1


async def _looked(look: Callable[[], Awaitable[str]]) -> tuple[str, str]:
    try:
        return "content", await look()
    except BrokerError as e:
        return "problem", str(e)
