"""What a broker in a database may do inside the application's transactions; optional."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .consuming import Outcome
from .sending import Outgoing

if TYPE_CHECKING:
    from ...adapters.statements import Dialect, Statement


@runtime_checkable
class Transactional(Protocol):
    """A broker whose statements may run in a transaction that the application has begun.

    If the application's database is also the broker's, a message put in a transaction appears with
    its commit, and a delivery settled in it is settled together with everything that the task
    wrote. The broker makes the statements, without connecting and without an event loop; core runs
    them, through an adapter, just before the commit.

    A delivery's `tag` must be something that msgpack can pack, since it may travel to a child
    process.

    Attributes:
        dialect: The SQL dialect of databases that might be the broker's.
    """

    dialect: Dialect

    def whereabouts(self) -> Statement:
        """A query that tells which database a transaction is on; works anywhere, writes nothing."""

    async def is_here(self, answer: Sequence[Sequence[Any]]) -> bool | None:
        """Whether the answer to `whereabouts` is from the broker's own database.

        It must also say that the user may do what the statements do.

        Returns:
            `None` if the broker has only just set itself up there: ask again.

        Raises:
            BrokerUnavailable: The server did not answer within `timeout_seconds`.
        """

    def putting(self, messages: Sequence[Outgoing]) -> Iterable[Statement]:
        """A statement that adds messages as `put` does and returns the same, as rows of pairs."""

    def settling(self, outcome: Outcome) -> Statement:
        """A statement that applies a `DONE` outcome; if it returns no row, the lease was lost."""

    def tell_put(self, messages: Sequence[Outgoing]) -> None:
        """Wake those waiting for these messages, whose transaction has committed.

        Called on the event loop; returns at once. If it fails, waiters only learn of them later.
        """

    def tell_settled(self, outcome: Outcome) -> None:
        """Like `tell_put`, for an outcome."""
