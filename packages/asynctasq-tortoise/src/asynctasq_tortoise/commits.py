"""Dispatches that wait for the commit of an `in_transaction` block.

Tortoise has no hook for the end of a transaction, and a nested block leaves the outer one as the
connection of its context. So each transaction client is followed from its beginning: its own
`commit`, `rollback` and nested blocks are wrapped on the instance. Owns the rules that a dispatch
leaves after the outermost commit, in order, and that the rollback of the block in which it was
called, or of one round it, drops it.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from asynctasq import ConfigurationError, DeferredSend

from . import identity
from .lifecycle import is_initialised

_MARK = "_asynctasq_transaction"
_numbers = itertools.count()


@dataclass(slots=True, eq=False)
class _Level:
    """What happened in a transaction or in one of its savepoints, as far as it may be undone."""

    sends: list[DeferredSend] = field(default_factory=list)
    rows: set[tuple[type, Any]] = field(default_factory=set)
    models: set[type] = field(default_factory=set)
    deleted: list[object] = field(default_factory=list)

    def take(self, inner: _Level) -> None:
        """A savepoint was released: what happened in it is now a part of this level."""
        self.sends += inner.sends
        self.rows |= inner.rows
        self.models |= inner.models
        self.deleted += inner.deleted

    def undo(self) -> None:
        """Rolled back."""
        for instance in self.deleted:
            identity.forget_deletion(instance)
        for send in self.sends:
            send.drop()
        self.sends.clear()


class Transaction:
    """One open transaction: its levels, outermost first.

    Args:
        is_known_from_start: Whether every write of it was recorded.
    """

    def __init__(self, is_known_from_start: bool) -> None:
        self.number = next(_numbers)
        self.is_known_from_start = is_known_from_start
        self.levels = [_Level()]

    def wrote(self, model: type, pk: object) -> None:
        """A row was inserted or updated."""
        self.levels[-1].rows.add((model, pk))

    def wrote_many(self, model: type) -> None:
        """A query wrote rows of the model, nobody knows which."""
        self.levels[-1].models.add(model)

    def deleted(self, instance: object) -> None:
        """A row was deleted; a rollback brings it back."""
        self.levels[-1].deleted.append(instance)

    def holds(self, model: type, pk: object) -> bool:
        """Whether the row was, or may have been, written here."""
        if not self.is_known_from_start:
            return True
        return any((model, pk) in level.rows or model in level.models for level in self.levels)

    async def send(self) -> None:
        """Committed: every dispatch leaves, in order; the first failure is raised at the end."""
        sends = [send for level in self.levels for send in level.sends]
        self.levels = [_Level()]
        failures = []
        for send in sends:
            try:
                await send.send_async()
            except Exception as e:  # noqa: BLE001 - one failure must not keep back the rest
                failures.append(e)
        if failures:
            raise failures[0]

    def undo(self) -> None:
        """Rolled back, or lost."""
        self.undo_from(self.levels[0])
        self.levels = [_Level()]

    def begin_savepoint(self) -> _Level:
        """A nested block begins."""
        self.levels.append(_Level())
        return self.levels[-1]

    def release(self, level: _Level) -> None:
        """A nested block ended well: its writes and dispatches are now the outer block's."""
        if level in self.levels[1:]:
            place = self.levels.index(level)
            for inner in self.levels[place:]:
                self.levels[place - 1].take(inner)
            del self.levels[place:]

    def undo_from(self, level: _Level) -> None:
        """A block was rolled back, and with it those inside it."""
        if level in self.levels:
            place = self.levels.index(level)
            for inner in reversed(self.levels[place:]):
                inner.undo()
            del self.levels[place:]


def is_transaction(client: object) -> bool:
    """Whether this is what `in_transaction` gives."""
    base = sys.modules["tortoise.backends.base.client"]
    kinds = [getattr(base, n, ()) for n in ("TransactionalDBClient", "BaseTransactionWrapper")]
    return isinstance(client, tuple(kinds))  # the latter is the name in 0.21


def transaction_of(client: Any) -> Transaction | None:
    """The transaction that a client works in; `None` outside of one."""
    found: Transaction | None = vars(client).get(_MARK)
    return found


def follow(client: Any, is_known_from_start: bool = True) -> Transaction:
    """Learn of the end of a transaction, and of its nested blocks."""
    transaction = Transaction(is_known_from_start)
    setattr(client, _MARK, transaction)
    _wrap(client, "commit", _sending(transaction))
    _wrap(client, "rollback", _finally(transaction.undo))
    _wrap_nested_blocks(client, transaction)
    # A block that fails in a way that Tortoise neither commits nor rolls back.
    weakref.finalize(client, transaction.undo).atexit = False
    return transaction


def _follow_nested(client: Any, transaction: Transaction) -> None:
    """The same for the client of a nested block, which is a savepoint since 0.22."""
    setattr(client, _MARK, transaction)
    level: list[_Level] = []

    def begin() -> None:
        level.append(transaction.begin_savepoint())

    def release() -> None:
        transaction.release(level[0])

    def undo() -> None:
        transaction.undo_from(level[0])

    _wrap(client, "savepoint", _afterwards(begin))
    for name in ("release_savepoint", "commit"):
        _wrap(client, name, _afterwards(release))
    for name in ("savepoint_rollback", "rollback"):
        _wrap(client, name, _finally(undo))
    _wrap_nested_blocks(client, transaction)


Step = Callable[[], Awaitable[None]]


def _wrap(client: Any, name: str, wrapper: Callable[[Step], Step]) -> None:
    setattr(client, name, wrapper(getattr(client, name)))


def _sending(transaction: Transaction) -> Callable[[Step], Step]:
    def wrapper(commit: Step) -> Step:
        async def commit_and_send() -> None:
            try:
                await commit()
            except BaseException:
                transaction.undo()
                raise
            await transaction.send()

        return commit_and_send

    return wrapper


def _afterwards(note: Callable[[], None]) -> Callable[[Step], Step]:
    def wrapper(step: Step) -> Step:
        async def step_and_note() -> None:
            await step()
            note()

        return step_and_note

    return wrapper


def _finally(note: Callable[[], None]) -> Callable[[Step], Step]:
    def wrapper(step: Step) -> Step:
        async def step_and_note() -> None:
            try:
                await step()
            finally:
                note()

        return step_and_note

    return wrapper


def _wrap_nested_blocks(client: Any, transaction: Transaction) -> None:
    make = client._in_transaction

    def make_followed() -> Any:
        block = make()
        inner = getattr(block, "client", client)
        if inner is not client:
            _follow_nested(inner, transaction)
        return block

    client._in_transaction = make_followed


def _open_clients() -> Iterator[tuple[Any, Transaction]]:
    """Transactions open in this context, one at most for each connection."""
    if not is_initialised():
        return
    for client in sys.modules["tortoise.connection"].connections._get_storage().values():
        if is_transaction(client) and not client._finalized:
            # Begun before this adapter was loaded: who knows what it wrote.
            yield client, transaction_of(client) or follow(client, is_known_from_start=False)


def is_pending_write(obj: Any) -> bool:
    """Whether a transaction open in this context wrote the instance's row."""
    return any(t.holds(type(obj), obj.pk) for _, t in _open_clients())


def after_commit(obj: Any, send: DeferredSend) -> None:
    """Send when the transaction of the instance, or this client's own, has committed.

    Raises:
        ConfigurationError: It has already ended.
    """
    if is_transaction(obj):
        transaction = None if obj._finalized else transaction_of(obj)
    else:
        transaction = next(t for _, t in _open_clients() if t.holds(type(obj), obj.pk))
    if transaction is None:
        raise ConfigurationError(
            "on_commit: this transaction has already ended; dispatch without it"
        )
    transaction.levels[-1].sends.append(send)


def open_transaction() -> object | None:
    """The client of the transaction begun last, of those open in this context."""
    clients = sorted(_open_clients(), key=lambda found: found[1].number)
    return clients[-1][0] if clients else None
