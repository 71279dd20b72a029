"""Dispatches that wait for the commit of an `in_transaction` block.

Tortoise has no hook for the end of a transaction, and a nested block leaves the outer one as its
context's connection. So each transaction client is followed from its beginning: its `commit`,
`rollback` and nested blocks are wrapped on the instance. Owns the rule that a transaction not
followed from its beginning counts as having written every row.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from asynctasq import ConfigurationError, DeferredSend

from .clients import is_transaction
from .lifecycle import is_initialised
from .outbox import database_of, run
from .transactions import Level, OpenTransaction

_MARK = "_asynctasq_transaction"


def transaction_of(client: Any) -> OpenTransaction | None:
    """The transaction that a client works in; `None` if it is in none."""
    found: OpenTransaction | None = vars(client).get(_MARK)
    return found


def follow(client: Any, is_known_from_start: bool = True) -> OpenTransaction:
    """Follow a transaction: learn of its end and of its nested blocks."""
    transaction = OpenTransaction(is_known_from_start)
    setattr(client, _MARK, transaction)
    _wrap(client, "commit", _ending(transaction, weakref.ref(client)))
    _wrap(client, "rollback", _finally(transaction.undo))
    _wrap_nested_blocks(client, transaction)
    # Covers blocks that fail such that Tortoise neither commits nor rolls back.
    weakref.finalize(client, transaction.undo).atexit = False
    return transaction


def _follow_nested(client: Any, transaction: OpenTransaction) -> None:
    """Follow the client of a nested block, which is a savepoint since 0.22."""
    setattr(client, _MARK, transaction)
    level: list[Level] = []

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


Step = Callable[[], Awaitable[Any]]


def _wrap(client: Any, name: str, wrapper: Callable[[Step], Step]) -> None:
    setattr(client, name, wrapper(getattr(client, name)))


def _ending(transaction: OpenTransaction, known: weakref.ref[Any]) -> Callable[[Step], Step]:
    def wrapper(commit: Step) -> Step:
        async def commit_and_note() -> None:
            if transaction.is_atomic:
                raise ConfigurationError(
                    "an atomic task cannot commit its transaction: the worker does, when the task "
                    "has ended; use in_transaction() for a part that may fail"
                )
            try:
                client = known()
                await transaction.keep(database_of(client), partial(run, client))
                await commit()
            except BaseException:
                transaction.undo()
                raise
            transaction.is_committed = True
            if not transaction.is_ending:  # committed by hand inside the block
                await transaction.send()

        return commit_and_note

    return wrapper


async def leave(client: Any, leave_block: Step) -> Any:
    """Leave the block of a client, then send what waited for its commit.

    Not in `commit` itself, which still holds the connection at its end: an absent broker would keep
    the connection from others, and its error would stop Tortoise 0.21 from ever giving it back.
    """
    transaction = transaction_of(client)
    if transaction is None:
        return await leave_block()
    transaction.is_ending = True
    try:
        return await leave_block()
    finally:
        transaction.is_ending = False
        if transaction.is_committed:
            await transaction.send()


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


def _wrap_nested_blocks(client: Any, transaction: OpenTransaction) -> None:
    make = client._in_transaction

    def make_followed() -> Any:
        block = make()
        inner = getattr(block, "client", client)
        if inner is not client:
            _follow_nested(inner, transaction)
        return block

    client._in_transaction = make_followed


def _open_clients() -> Iterator[tuple[Any, OpenTransaction]]:
    """Transactions open in this context, at most one per connection."""
    if not is_initialised():
        return
    for client in sys.modules["tortoise.connection"].connections._get_storage().values():
        if is_transaction(client) and not client._finalized:
            # If it began before this adapter was loaded, nobody knows what it wrote.
            yield client, transaction_of(client) or follow(client, is_known_from_start=False)


def is_pending_write(obj: Any) -> bool:
    """Whether a transaction open in this context wrote the instance's row."""
    return any(t.holds(type(obj), obj.pk) for _, t in _open_clients())


def after_commit(obj: Any, send: DeferredSend) -> None:
    """Send once the instance's transaction, or this client's own, has committed.

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
    """The client of the most recently begun transaction open in this context."""
    clients = sorted(_open_clients(), key=lambda found: found[1].number)
    return clients[-1][0] if clients else None
