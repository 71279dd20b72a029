"""Waits for results: one query serves all waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from asynctasq import BrokerError

from .loops import PerLoop
from .server import Server
from .waking import Wakes, result_topic, wait

_Key = tuple[str, str]

#: Seconds between queries, so that each collects all results that came meanwhile.
_LOOK_SECONDS = 0.005


@dataclass(slots=True)
class _Waiting:
    """What one event loop waits for; `more` is set when something is added."""

    futures: dict[_Key, list[asyncio.Future[bytes]]] = field(default_factory=dict)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    looking: asyncio.Task[None] | None = None


class AwaitedResults:
    """Results, whether there already or still awaited."""

    def __init__(self, server: Server, wakes: Wakes) -> None:
        self._server = server
        self._wakes = wakes
        self._waiting = PerLoop(_Waiting)
        schema = server.address.schema
        self._look = f"""
            SELECT given.queue, given.id, r.body
            FROM unnest($1::text[], $2::text[]) AS given (queue, id)
            JOIN {schema}.queue q ON q.name = given.queue
            JOIN {schema}.result r ON r.queue = q.number AND r.id = given.id
            WHERE r.expires > clock_timestamp()"""

    async def get(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """The kept result; waits for it."""
        rows = await self._server.insist(self._look, [queue], [message_id])
        if rows or timeout_seconds <= 0:
            return rows[0]["body"] if rows else None
        with self._waiter(queue, message_id) as future:
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await future
            except TimeoutError:
                return None

    async def close(self) -> None:
        """Stop looking; waiters are told that the broker was closed."""
        waiting = self._waiting.take()
        if waiting is not None and waiting.looking is not None:
            waiting.looking.cancel()
            await asyncio.wait([waiting.looking])
            _fail(waiting, BrokerError("the broker was closed while a result was awaited"))

    @contextmanager
    def _waiter(self, queue: str, message_id: str) -> Iterator[asyncio.Future[bytes]]:
        waiting, key = self._waiting.get(), (queue, message_id)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.futures.setdefault(key, []).append(future)
        waiting.more.set()
        if waiting.looking is None or waiting.looking.done():
            waiting.looking = asyncio.create_task(self._keep_looking(waiting))
        try:
            yield future
        finally:
            waiting.futures[key].remove(future)
            if not waiting.futures[key]:
                del waiting.futures[key]

    async def _keep_looking(self, waiting: _Waiting) -> None:
        """Look until nobody waits any more."""
        while waiting.futures:
            waiting.more.clear()
            topics = {result_topic(queue) for queue, _ in waiting.futures}
            with self._wakes.waiter(topics, waiting.more):
                await self._wakes.listen(topics)
                if not waiting.futures:  # they gave up meanwhile
                    return
                try:
                    await self._answer(waiting)
                except BrokerError as e:
                    _fail(waiting, e)
                await asyncio.sleep(_LOOK_SECONDS)
                if waiting.futures:
                    await wait(waiting.more, self._wakes.poll_seconds)

    async def _answer(self, waiting: _Waiting) -> None:
        queues, ids = zip(*waiting.futures, strict=True)
        for row in await self._server.insist(self._look, queues, ids):
            for future in waiting.futures.get((row["queue"], row["id"]), ()):
                if not future.done():
                    future.set_result(row["body"])


def _fail(waiting: _Waiting, error: BrokerError) -> None:
    for futures in waiting.futures.values():
        for future in futures:
            if not future.done():
                future.set_exception(error)
