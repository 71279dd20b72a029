"""What one transaction holds back until its end, for an adapter's `after_commit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..adapters.hookspecs import DeferredSend
from ..adapters.statements import Database, Run, Statement
from ..brokers import Outgoing
from .deferred import (
    OWN_SENDS,
    Deferred,
    Shares,
    learn,
    send_together,
    send_together_async,
)
from .joining import Joining, Wait, finished, wait_blocking, without_waiting
from .telling import tell_dispatched


@dataclass(slots=True)
class _Put:
    """The messages that a transaction has put into the broker's tables.

    Attributes:
        refused: The messages that were not added, as returned by `Sending.put`.
        standing: For each of those, by id, the call that stands for it.
    """

    joining: Joining
    deferred: list[Deferred]
    refused: Mapping[str, str] = field(default_factory=dict)
    standing: Mapping[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> list[Outgoing]:
        return [deferred.outgoing for deferred in self.deferred]

    async def put(self, run: Run) -> None:
        self.refused, self.standing = await self.joining.put(self.messages, run)

    def note_committed(self) -> None:
        for deferred in self.deferred:
            deferred.state = "sent"
        learn(self.deferred, self.standing)
        tell_dispatched(self.messages, self.refused)


class DeferredSends:
    """The sends that one transaction holds back, for an adapter's `after_commit`.

    Keeps the order of the dispatches, and knows savepoints: a released one leaves its sends to the
    transaction, one that is rolled back drops them. Not for several threads at once.

    An adapter that can run statements in its transactions awaits `keep_async`, or calls `keep`,
    just before each commit. With an outbox, or if the broker's tables are in the same database,
    whatever waits then becomes part of the transaction, and `send` neither fails nor waits.

    Args:
        adapter: The name of the adapter's entry point.
        database: The transaction's database, if the adapter can run statements in it.
    """

    def __init__(self, adapter: str = "", database: Database | None = None) -> None:
        self._adapter = adapter
        self._database = database
        self._sends: list[DeferredSend] = []
        self._kept: list[Deferred] = []
        self._put: list[_Put] = []

    def __len__(self) -> int:
        return len(self._sends) + len(self._kept) + len(self._put)

    def add(self, send: DeferredSend) -> None:
        """Hold back a send."""
        self._sends.append(send)

    def extend(self, released: DeferredSends) -> None:
        """Take over what a released savepoint held back."""
        self._sends += released._taken()

    def savepoint(self) -> int:
        """A mark for `roll_back_to`."""
        return len(self._sends)

    def roll_back_to(self, mark: int) -> None:
        """Drop what was held back since the mark."""
        dropped, self._sends = self._sends[mark:], self._sends[:mark]
        for send in dropped:
            send.drop()

    def drop(self) -> None:
        """Drop everything: the transaction was rolled back, or its end is unknown."""
        self.roll_back_to(0)
        kept, self._kept = self._kept, []
        put, self._put = self._put, []
        # A commit whose answer was lost looks like a failed one.
        for deferred in (*kept, *(deferred for one in put for deferred in one.deferred)):
            deferred.state = "doubtful"

    def keep(self, run: Callable[[Statement], Sequence[Sequence[Any]]]) -> None:
        """Make what is held back part of the transaction, if possible.

        For synchronous code, just before the commit.

        Args:
            run: Runs a statement in the transaction and returns a SELECT's rows.
        """
        if self._database is not None and self._sends:
            finished(self._keep(without_waiting(run), wait_blocking))

    async def keep_async(self, run: Run) -> None:
        """Like `keep`, on an event loop."""
        if self._database is not None and self._sends:
            await self._keep(run, None)

    async def _keep(self, run: Run, wait: Wait | None) -> None:
        mine = [send for send in self._sends if isinstance(send, OWN_SENDS)]
        joining = next((send.joining for send in mine if send.joining is not None), None)
        assert self._database is not None
        if joining is not None and await joining.can_join(self._adapter, self._database, run, wait):
            claimed = self._claim(lambda send: send.joining is joining)
            self._put.append(put := _Put(joining, claimed))
            await put.put(run)
            return
        kept = self._claim(lambda send: send.outbox is not None)
        self._kept += kept
        if kept and kept[0].outbox is not None:
            for statement in kept[0].outbox.insertion([deferred.outgoing for deferred in kept]):
                await run(statement)

    def _claim(self, is_wanted: Callable[[Deferred | Shares], bool]) -> list[Deferred]:
        """Claim the wanted sends that are held back; the others stay."""
        sends, self._sends = self._sends, []
        claimed: list[Deferred] = []
        for send in sends:
            if not isinstance(send, OWN_SENDS) or not is_wanted(send):
                self._sends.append(send)
            elif (deferred := send.claim()) is not None:
                claimed.append(deferred)
        return claimed

    def send(self) -> None:
        """Send everything after the commit, as `send_together` does."""
        for put in self._committed():
            put.joining.tell_put_blocking(put.messages)
        self._send_kept()
        if sends := self._taken():
            send_together(sends)

    async def send_async(self) -> None:
        """Send everything after the commit, as `send_together_async` does."""
        for put in self._committed():
            put.joining.tell_put(put.messages)
        self._send_kept()
        if sends := self._taken():
            await send_together_async(sends)

    def _committed(self) -> list[_Put]:
        """The messages that the transaction has put, now that the broker has them."""
        puts, self._put = self._put, []
        for put in puts:
            put.note_committed()
        return puts

    def _send_kept(self) -> None:
        kept, self._kept = self._kept, []
        for deferred in kept:
            deferred.state = "kept"
        if kept and self._database is not None and kept[0].outbox is not None:
            messages = [deferred.outgoing for deferred in kept]
            kept[0].outbox.send_soon(
                self._adapter, self._database, messages, lambda standing: learn(kept, standing)
            )

    def _taken(self) -> list[DeferredSend]:
        # Empty it first: an ORM may end a transaction twice if its commit callback raises.
        sends, self._sends = self._sends, []
        return sends
