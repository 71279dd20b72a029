"""Sends and receives notifications that something has changed.

Notifications are only for speed: waiters look again by themselves after a while. A notification is
sent after the commit that it is about, never in its transaction, where it would make commits wait
for each other; and only if the table `listener` says that somebody is waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from asynctasq import BrokerError
from asynctasq.brokers import Backoff

from .failures import ERRORS, broker_error
from .loops import PerLoop
from .server import Server, bounded

logger = logging.getLogger(__name__)

#: Seconds for which a registration as a waiter holds, and after which it is renewed.
_SAID_SECONDS, _AGAIN_SECONDS = 15.0, 6.0
#: Seconds to keep listening to a topic that nobody waits on any more, so that successive takes cost
#: nothing; and seconds until the connection is closed if nobody waits at all.
_KEPT_SECONDS, _IDLE_SECONDS = 5.0, 30.0
#: Messages due within this many seconds are announced, so that nobody sleeps past them; waiters
#: find later ones by themselves.
SOON_SECONDS = 2.0
#: Seconds between notifications, each of which covers everything that has changed meanwhile.
_TELL_SECONDS = 0.005


@dataclass(slots=True)
class _Open:
    """What one event loop has open.

    Attributes:
        events: The waiters' events, by topic.
        used: When each topic was last waited on.
        said: The topics that the server knows about, until `said_until`.
        telling: Topics to announce.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    events: dict[str, set[asyncio.Event]] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    said: frozenset[str] = frozenset()
    said_until: float = 0.0
    saying: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Any = None
    connect_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 10.0))
    keeping: asyncio.Task[None] | None = None
    telling: set[str] = field(default_factory=set)
    teller: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self.connection is not None and not self.connection.is_closed()

    def wake(self, topics: Collection[str]) -> None:
        """Set the events of those waiting on these topics."""
        for topic in topics:
            for event in self.events.get(topic, ()):
                event.set()

    def notified(self, _connection: Any, _pid: int, _channel: str, topic: str) -> None:
        """Wake the topic's waiters; called by the connection."""
        self.wake((topic,))

    def ended(self, _connection: Any) -> None:
        """Wake all waiters, who may have missed something; called by the connection."""
        self.wake(tuple(self.events))


class Wakes:
    """Topics that this process waits on, and announces to others."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._address = server.address
        self._opened = PerLoop(_Open)
        self._listen = f"SELECT {server.address.schema}.listen($1, $2, $3)"
        self._wake = f"SELECT {server.address.schema}.wake($1)"

    @property
    def poll_seconds(self) -> float:
        """How long a waiter waits before it looks by itself."""
        interval = self._address.config.poll_interval
        return interval if self._opened.get().is_connected else interval / 2

    @contextmanager
    def waiter(
        self, topics: Collection[str], event: asyncio.Event | None = None
    ) -> Iterator[asyncio.Event]:
        """An event, given or new, that is set when one of the topics is announced."""
        opened, event = self._opened.get(), event or asyncio.Event()
        for topic in topics:
            opened.events.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            now = asyncio.get_running_loop().time()
            for topic in topics:
                opened.used[topic] = now
                opened.events[topic].discard(event)
                if not opened.events[topic]:
                    del opened.events[topic]

    async def listen(self, topics: Collection[str]) -> bool:
        """Make sure that the server knows about these topics, on which there is a `waiter`.

        Returns:
            Whether it learned about them only now, so that something may have been missed.
        """
        opened = self._opened.get()
        if self._knows(opened, topics):
            return False
        async with opened.saying:
            if self._knows(opened, topics) or not await self._say(opened):
                return False
        if opened.keeping is None or opened.keeping.done():
            opened.keeping = asyncio.create_task(self._keep(opened))
        return True

    def tell(self, topics: Collection[str]) -> None:
        """Wake whoever waits on these topics, soon; call it after the commit."""
        opened = self._opened.get()
        opened.wake(topics)
        opened.telling.update(topics)
        if opened.teller is None or opened.teller.done():
            opened.teller = asyncio.create_task(self._tell(opened))

    async def close(self) -> None:
        """Send pending announcements, and close the connection."""
        opened = self._opened.take()
        if opened is None:
            return
        if opened.teller is not None:
            await asyncio.wait([opened.teller])
        if opened.keeping is not None:
            opened.keeping.cancel()
            await asyncio.wait([opened.keeping])
        async with opened.saying:
            await self._disconnect(opened)

    def _knows(self, opened: _Open, topics: Collection[str]) -> bool:
        now = asyncio.get_running_loop().time()
        return (
            opened.is_connected and opened.said.issuperset(topics) and now < opened.said_until - 0.5
        )

    async def _keep(self, opened: _Open) -> None:
        """Keep the registration alive; end when nobody has waited for a while."""
        loop = asyncio.get_running_loop()
        waited_at = loop.time()
        while loop.time() - waited_at < _IDLE_SECONDS:
            await asyncio.sleep(_AGAIN_SECONDS)
            if opened.events:
                waited_at = loop.time()
                async with opened.saying:
                    await self._say(opened)
        async with opened.saying:
            await self._disconnect(opened)

    async def _say(self, opened: _Open) -> bool:
        """Tell the server what this process waits on; return whether it knows now."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        opened.used = {t: at for t, at in opened.used.items() if now - at < _KEPT_SECONDS}
        topics = frozenset((*opened.events, *opened.used))
        try:
            if not opened.is_connected:
                if now < opened.connect_at:
                    return False
                opened.connection = await self._server.connect_for_notifications()
                opened.connection.add_termination_listener(opened.ended)
            await self._say_on(opened, topics, now + self._server.timeout_seconds)
        except ERRORS as e:
            opened.connect_at = loop.time() + opened.backoff.next()
            error = broker_error(e, self._address.name)
            logger.warning("no notifications, polling for work instead: %s", error)
            await self._disconnect(opened)
            return False
        opened.backoff.reset()
        opened.said, opened.said_until = topics, now + _SAID_SECONDS
        return True

    async def _say_on(self, opened: _Open, topics: Collection[str], deadline: float) -> None:
        connection, channel = opened.connection, self._address.config.schema
        await bounded(connection, connection.add_listener(channel, opened.notified), deadline)
        arguments = (opened.id, list(topics), _SAID_SECONDS)
        await self._server.fetch_on(connection, self._listen, arguments, deadline)

    async def _disconnect(self, opened: _Open) -> None:
        connection, opened.connection = opened.connection, None
        opened.said = frozenset()
        if connection is not None:
            with suppress(*ERRORS):
                await connection.close(timeout=self._server.timeout_seconds)

    async def _tell(self, opened: _Open) -> None:
        while opened.telling:
            topics = sorted(opened.telling)
            opened.telling.clear()
            try:
                await self._server.ask(self._wake, topics)
            except BrokerError as e:
                logger.warning("waiters were not notified, and will look later: %s", e)
            await asyncio.sleep(_TELL_SECONDS)


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Return once the event is set, or after `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def queue_topic(queue: str) -> str:
    """The topic announced when there may be something to take from the queue."""
    return f"q:{queue}"


def result_topic(queue: str) -> str:
    """The topic announced when the queue has new results."""
    return f"r:{queue}"


def value_topic(queue: str, kind: str, name: str) -> str:
    """The topic announced when a small value that somebody may wait for has changed."""
    return f"v:{kind}:{queue}:{name}"
