"""What an open transaction wrote, and which dispatches wait for its end.

Owns the rules that dispatches are sent in order after the outermost commit, and that one is dropped
when the block in which it was called, or an enclosing block, rolls back.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from asynctasq import Database, DeferredSend, DeferredSends, Run

from . import identity

_numbers = itertools.count()


@dataclass(slots=True, eq=False)
class Level:
    """What happened in a transaction, or in one of its savepoints, that may still be undone."""

    sends: list[DeferredSend] = field(default_factory=list)
    rows: set[tuple[type, Any]] = field(default_factory=set)
    models: set[type] = field(default_factory=set)
    inserted: list[object] = field(default_factory=list)
    deleted: list[object] = field(default_factory=list)

    def take(self, inner: Level) -> None:
        """Take over what happened in a savepoint that was released."""
        self.sends += inner.sends
        self.rows |= inner.rows
        self.models |= inner.models
        self.inserted += inner.inserted
        self.deleted += inner.deleted

    def undo(self) -> None:
        """Undo the level after a rollback."""
        for instance in self.inserted:
            identity.forget_insert(instance)
        for instance in self.deleted:
            identity.forget_deletion(instance)
        for send in self.sends:
            send.drop()
        self.sends.clear()


class OpenTransaction:
    """One open transaction: its levels, outermost first.

    Attributes:
        is_known_from_start: Whether all of its writes were recorded.
        is_ending: Whether its block is being left.
        is_committed: Whether it was committed.
        is_atomic: Whether it belongs to an atomic task, which must not commit it.
    """

    def __init__(self, is_known_from_start: bool) -> None:
        self.number = next(_numbers)
        self.is_known_from_start = is_known_from_start
        self.is_ending = self.is_committed = self.is_atomic = False
        self.levels = [Level()]
        self._kept: DeferredSends | None = None

    def wrote(self, model: type, pk: object) -> None:
        """Note that a row was inserted or updated."""
        self.levels[-1].rows.add((model, pk))

    def wrote_many(self, model: type) -> None:
        """Note that a query wrote rows of the model, nobody knows which."""
        self.levels[-1].models.add(model)

    def inserted(self, instances: Iterable[object]) -> None:
        """Note instances inserted in bulk; a rollback removes their rows."""
        self.levels[-1].inserted.extend(instances)

    def deleted(self, instance: object) -> None:
        """Note that a row was deleted; a rollback brings it back."""
        self.levels[-1].deleted.append(instance)

    def holds(self, model: type, pk: object) -> bool:
        """Whether this transaction has, or may have, written the row."""
        if not self.is_known_from_start:
            return True
        return any((model, pk) in level.rows or model in level.models for level in self.levels)

    async def keep(self, database: Database | None, run: Run) -> None:
        """Just before the commit, make waiting dispatches part of the transaction if possible."""
        self._kept = self._kept or DeferredSends("tortoise", database)
        for level in self.levels:
            for send in level.sends:
                self._kept.add(send)
            level.sends.clear()
        await self._kept.keep_async(run)

    async def send(self) -> None:
        """Send every dispatch after the commit, in order and in one round trip.

        Raises:
            BrokerError: The first failure, once all have been tried.
        """
        sends, self._kept = self._kept, None
        self.levels = [Level()]
        if sends:
            # Shielded: what is committed is sent even if the surrounding code is cancelled.
            await asyncio.shield(sends.send_async())

    def undo(self) -> None:
        """Undo everything: the transaction was rolled back or lost."""
        self.undo_from(self.levels[0])
        self.levels = [Level()]
        if self._kept is not None:
            self._kept.drop()

    def begin_savepoint(self) -> Level:
        """Begin the level of a nested block."""
        self.levels.append(Level())
        return self.levels[-1]

    def release(self, level: Level) -> None:
        """End a nested block that succeeded: its writes and dispatches become the outer block's."""
        if level in self.levels[1:]:
            place = self.levels.index(level)
            for inner in self.levels[place:]:
                self.levels[place - 1].take(inner)
            del self.levels[place:]

    def undo_from(self, level: Level) -> None:
        """Undo a block that was rolled back, along with the blocks inside it."""
        if level in self.levels:
            place = self.levels.index(level)
            for inner in reversed(self.levels[place:]):
                inner.undo()
            del self.levels[place:]
