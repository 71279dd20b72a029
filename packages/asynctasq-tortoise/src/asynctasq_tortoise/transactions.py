"""What an open transaction wrote, and which dispatches wait for its end.

Owns the rules that a dispatch leaves after the outermost commit, in order, and that the rollback of
the block in which it was called, or of one round it, drops it.
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
    """What happened in a transaction or in one of its savepoints, as far as it may be undone."""

    sends: list[DeferredSend] = field(default_factory=list)
    rows: set[tuple[type, Any]] = field(default_factory=set)
    models: set[type] = field(default_factory=set)
    inserted: list[object] = field(default_factory=list)
    deleted: list[object] = field(default_factory=list)

    def take(self, inner: Level) -> None:
        """A savepoint was released: what happened in it is now a part of this level."""
        self.sends += inner.sends
        self.rows |= inner.rows
        self.models |= inner.models
        self.inserted += inner.inserted
        self.deleted += inner.deleted

    def undo(self) -> None:
        """Rolled back."""
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
        is_known_from_start: Whether every write of it was recorded.
        is_ending: Whether its block is being left.
        is_committed: Whether it was committed.
        is_atomic: Whether it is an atomic task's, which must not commit it.
    """

    def __init__(self, is_known_from_start: bool) -> None:
        self.number = next(_numbers)
        self.is_known_from_start = is_known_from_start
        self.is_ending = self.is_committed = self.is_atomic = False
        self.levels = [Level()]
        self._kept: DeferredSends | None = None

    def wrote(self, model: type, pk: object) -> None:
        """A row was inserted or updated."""
        self.levels[-1].rows.add((model, pk))

    def wrote_many(self, model: type) -> None:
        """A query wrote rows of the model, nobody knows which."""
        self.levels[-1].models.add(model)

    def inserted(self, instances: Iterable[object]) -> None:
        """Rows were inserted many at once; a rollback takes them away."""
        self.levels[-1].inserted.extend(instances)

    def deleted(self, instance: object) -> None:
        """A row was deleted; a rollback brings it back."""
        self.levels[-1].deleted.append(instance)

    def holds(self, model: type, pk: object) -> bool:
        """Whether the row was, or may have been, written here."""
        if not self.is_known_from_start:
            return True
        return any((model, pk) in level.rows or model in level.models for level in self.levels)

    async def keep(self, database: Database | None, run: Run) -> None:
        """Make what waits a part of the transaction, where that can be; just before the commit."""
        self._kept = self._kept or DeferredSends("tortoise", database)
        for level in self.levels:
            for send in level.sends:
                self._kept.add(send)
            level.sends.clear()
        await self._kept.keep_async(run)

    async def send(self) -> None:
        """Committed: every dispatch leaves, in order and in one round trip.

        Raises:
            BrokerError: The first failure, when all have been tried.
        """
        sends, self._kept = self._kept, None
        self.levels = [Level()]
        if sends:
            # What is committed leaves also when the code round the transaction is cancelled.
            await asyncio.shield(sends.send_async())

    def undo(self) -> None:
        """Rolled back, or lost."""
        self.undo_from(self.levels[0])
        self.levels = [Level()]
        if self._kept is not None:
            self._kept.drop()

    def begin_savepoint(self) -> Level:
        """A nested block begins."""
        self.levels.append(Level())
        return self.levels[-1]

    def release(self, level: Level) -> None:
        """A nested block ended well: its writes and dispatches are now the outer block's."""
        if level in self.levels[1:]:
            place = self.levels.index(level)
            for inner in self.levels[place:]:
                self.levels[place - 1].take(inner)
            del self.levels[place:]

    def undo_from(self, level: Level) -> None:
        """A block was rolled back, and with it those inside it."""
        if level in self.levels:
            place = self.levels.index(level)
            for inner in reversed(self.levels[place:]):
                inner.undo()
            del self.levels[place:]
