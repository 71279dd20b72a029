"""An application's broker connections, one set for each event loop.

Owns the rule that a connection lives no longer than the loop that it belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..adapters.loop_end import at_loop_end
from ..brokers import Broker, Outgoing
from .batching import Batcher
from .conflicts import resolve
from .portal import portal


@dataclass(slots=True)
class _Open:
    """What one event loop has open."""

    broker: Broker
    batcher: Batcher
    close: Callable[[], Awaitable[None]]


class Connections:
    """One broker for each event loop that asks for one.

    Args:
        open_broker: Makes a broker that is not connected yet.
        keys: The signing keys.

    Attributes:
        before_closing: Awaited before the running event loop's connections are closed, to use them
            one last time.
    """

    def __init__(self, open_broker: Callable[[], Broker], keys: Sequence[bytes] = ()) -> None:
        self.before_closing: Callable[[], Awaitable[None]] | None = None
        self._open_broker = open_broker
        self._keys = keys
        self._open: dict[asyncio.AbstractEventLoop, _Open] = {}

    def broker(self) -> Broker:
        """The broker of the running event loop, closed when the loop is shut down."""
        return self._of_this_loop().broker

    def put(self, messages: Sequence[Outgoing]) -> asyncio.Future[Mapping[str, str] | None]:
        """Put messages, sharing a round trip with others from this loop; returns their conflicts.

        Raises:
            BrokerUnavailable: From the future, as in `Broker.put`.
        """
        return self._of_this_loop().batcher.put(messages)

    async def put_resolved(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        """Put messages; map the ids of those whose keys were taken to the calls standing for them.

        Raises:
            BrokerUnavailable: As in `Broker.put`.
        """
        conflicts = await self.put(messages)
        return await self.resolve(messages, conflicts) if conflicts else {}

    async def resolve(
        self, messages: Sequence[Outgoing], conflicts: Mapping[str, str]
    ) -> Mapping[str, str]:
        """As `conflicts.resolve`."""
        return await resolve(self.put, self._keys, messages, conflicts)

    def put_blocking(self, messages: Sequence[Outgoing]) -> Mapping[str, str]:
        """Like `put_resolved`, for synchronous code in any thread."""
        conflicts = portal.wait_for(lambda: self.put(messages))
        return portal.run(self.resolve(messages, conflicts)) if conflicts else {}

    async def close(self) -> None:
        """Close what the running event loop has open; its next use opens it again."""
        opened = self._open.get(asyncio.get_running_loop())
        if opened is not None:
            await opened.close()

    def leave_portal(self) -> None:
        """Close what synchronous code has open."""
        portal.run_if_started(self.close())

    def _of_this_loop(self) -> _Open:
        loop = asyncio.get_running_loop()
        opened = self._open.get(loop)
        if opened is None:
            self._forget_closed_loops()
            broker = self._open_broker()
            close = at_loop_end(partial(self._close, loop, broker))
            opened = self._open[loop] = _Open(broker, Batcher(broker), close)
        return opened

    def _forget_closed_loops(self) -> None:
        """Drop loops that ended without `shutdown_asyncgens`.

        A weak dictionary would not do so: the generator's hooks refer to the loop.
        """
        for loop in [loop for loop in list(self._open) if loop.is_closed()]:
            self._open.pop(loop, None)

    async def _close(self, loop: asyncio.AbstractEventLoop, broker: Broker) -> None:
        try:
            if self.before_closing is not None:
                await self.before_closing()
        finally:
            self._open.pop(loop, None)
            await broker.close()
