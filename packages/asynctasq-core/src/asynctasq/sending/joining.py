"""Does the broker's work inside the application's transactions, if the database is the broker's.

Owns the rule that the servers themselves say whether two databases are the same. Addresses cannot:
one database has many addresses, and different ones can go by the same name.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

from ..adapters.statements import Database, Run, Statement
from ..brokers import Outcome, Outgoing, Transactional
from ..errors import BrokerError
from .conflicts import resolve
from .connections import Connections
from .portal import portal

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Waits for the broker, on the event loop or in synchronous code.
Wait = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]

#: How long to believe that a database is not the broker's, or that nobody knows because the broker
#: is away, before asking again.
_AGAIN_SECONDS = 10.0


class Joining:
    """What a `Transactional` broker does in the transactions of one application.

    Args:
        broker: Builds the statements; never connects.
        connections: The connections to the broker.
        keys: The signing keys.
    """

    def __init__(
        self, broker: Transactional, connections: Connections, keys: Sequence[bytes]
    ) -> None:
        self._broker = broker
        self._connections = connections
        self._keys = keys
        self._joined: set[tuple[str, Database]] = set()
        self._asked: dict[tuple[str, Database], float] = {}

    async def can_join(
        self, adapter: str, database: Database, run: Run, wait: Wait | None = None
    ) -> bool:
        """Whether the transaction behind `run` is on the broker's database.

        The first time this costs a statement and a question to the broker.

        Args:
            adapter: The adapter's name.
            wait: Waits for the broker; by default on the event loop.
        """
        place = (adapter, database)
        if place in self._joined:
            return True
        if database.dialect != self._broker.dialect or monotonic() < self._asked.get(place, 0.0):
            return False
        if await self._is_here(run, wait or _await):
            self._joined.add(place)
            return True
        self._asked = {p: until for p, until in self._asked.items() if until > monotonic()}
        self._asked[place] = monotonic() + _AGAIN_SECONDS
        return False

    async def _is_here(self, run: Run, wait: Wait) -> bool:
        question = self._broker.whereabouts()
        try:
            is_here = await wait(self._ask(await run(question)))
            if is_here is None:
                is_here = await wait(self._ask(await run(question)))
        except BrokerError as e:
            logger.warning("it is not known whether a database is the broker's: %s", e)
            return False
        return bool(is_here)

    async def _ask(self, answer: Sequence[Sequence[Any]]) -> bool | None:
        return await self._connected().is_here(answer)

    async def holds(self, queue: str, message_id: str) -> bool:
        """Whether the queue holds a message, in any state.

        Raises:
            BrokerUnavailable: The server cannot be reached.
        """
        return await self._connections.broker().state(queue, message_id) is not None

    # --- inside of the transaction ------------------------------------------------------

    async def put(self, messages: Sequence[Outgoing], run: Run) -> tuple[_Refused, _Refused]:
        """Put messages in the transaction.

        Returns:
            Two mappings by id, for messages whose unique keys were taken: what `Sending.put`
            returns for them, and the calls that stand for them.
        """

        async def put(messages: Sequence[Outgoing]) -> _Refused:
            rows = [row for s in self._broker.putting(messages) for row in await run(s)]
            return {str(message_id): str(holder) for message_id, holder in rows}

        refused = await put(messages)
        standing = await resolve(put, self._keys, messages, refused) if refused else {}
        return refused, standing

    def settling(self, outcome: Outcome) -> Statement:
        """See `Transactional.settling`."""
        return self._broker.settling(outcome)

    # --- after the commit ---------------------------------------------------------------

    def tell_put(self, messages: Sequence[Outgoing]) -> None:
        """Wake workers that wait for these messages; call on the event loop."""
        self._connected().tell_put(messages)

    def tell_put_blocking(self, messages: Sequence[Outgoing]) -> None:
        """`tell_put` for synchronous code; does not wait."""

        async def tell() -> None:
            self.tell_put(messages)

        portal.submit(tell())

    def tell_settled(self, outcome: Outcome) -> None:
        """Wake whoever waits for a call to end; call on the event loop."""
        self._connected().tell_settled(outcome)

    def _connected(self) -> Transactional:
        broker = self._connections.broker()
        assert isinstance(broker, Transactional)
        return broker


_Refused = Mapping[str, str]


async def _await(question: Coroutine[Any, Any, T]) -> T:
    return await question


async def wait_blocking(question: Coroutine[Any, Any, T]) -> T:
    """Wait for the broker in synchronous code, without letting this thread's event loop run."""
    return portal.run(question)


def without_waiting(run: Callable[[Statement], Sequence[Sequence[Any]]]) -> Run:
    """Wrap a blocking function that runs statements as an awaitable one that never waits."""

    async def awaited(statement: Statement) -> Sequence[Sequence[Any]]:
        return run(statement)

    return awaited


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        result: T = e.value
        return result
    raise RuntimeError("the coroutine waits for something")
