"""What a broker in a database does inside transactions of the application; most do without."""

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

    Where a database of the application is the broker's own, a message that is put in its
    transaction is there with the commit, and a delivery that is settled in it is settled with all
    that the task wrote. The broker writes the statements; core runs them, in an adapter, just
    before the commit. They connect to nothing, so that they can be made without an event loop.

    A delivery's `tag` is made of what msgpack knows, for it may travel to a child process.

    Attributes:
        dialect: Of the databases that are worth asking.
    """

    dialect: Dialect

    def whereabouts(self) -> Statement:
        """What a transaction is asked to find out where it is; fails nowhere and writes nothing."""

    async def is_here(self, answer: Sequence[Sequence[Any]]) -> bool | None:
        """Whether what `whereabouts` gave there says that it is on the broker's own database.

        Also that its user may do there what the statements do.

        Returns:
            `None` if the broker has only now got ready there, so that it is to be asked again.

        Raises:
            BrokerUnavailable: The server does not tell, within `timeout_seconds`.
        """

    def putting(self, messages: Sequence[Outgoing]) -> Iterable[Statement]:
        """What adds messages, in order, as `put`; rows are what `put` returns, as pairs."""

    def settling(self, outcome: Outcome) -> Statement:
        """What applies an outcome of `Action.DONE`; without a row, the lease was lost."""

    def tell_put(self, messages: Sequence[Outgoing]) -> None:
        """Wake who waits for these messages, whose transaction has committed.

        On the event loop; returns at once, and a failure is nobody's but the waiters'.
        """

    def tell_settled(self, outcome: Outcome) -> None:
        """The same for an outcome."""
