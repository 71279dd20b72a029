"""What lets the workers of a broker agree with each other; a broker may do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .sending import Outgoing


@runtime_checkable
class Coordinating(Protocol):
    """Leases by name: of all who ask for one, one has it.

    A holder that is slow may go on believing in a lease that another has meanwhile, so what is
    done under one must be right when two do it, only wasteful.
    """

    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take the lease `name` if it is free, run out, or the holder's already, in one step.

        Args:
            holder: Who asks; unique per process start.
            ttl_seconds: How long the lease lasts from now on; ask again well before its end.

        Returns:
            Whether `holder` has the lease now.

        Raises:
            BrokerUnavailable: The server cannot be reached; the lease may have been taken.
        """

    async def resign(self, name: str, holder: str) -> None:
        """Give the lease up if `holder` has it, so that the next who asks gets it at once.

        Raises:
            BrokerUnavailable: The server cannot be reached; the lease runs out by itself.
        """


@runtime_checkable
class Policing(Protocol):
    """Whether a message may run now; marks a broker whose `put` takes policies and priorities."""

    async def keys_in_use(self, queue: str, *, limit: int = 100) -> list[KeyInUse]:
        """The keys that are taken or have messages, those with the longest lines first."""


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """A key of a policy that some message has.

    Attributes:
        holders: Ids of the messages that have it: for a limit those running (and ready, where the
            broker counts them), for a unique key the one; none for a rate.
        waiting: How many stand in its line.
        free_at: Unix time in seconds at which a rate lets the next pass; `None` for other kinds.
    """

    kind: Literal["unique", "limit", "rate"]
    key: str
    holders: tuple[str, ...] = ()
    waiting: int = 0
    free_at: float | None = None


@runtime_checkable
class Pausing(Protocol):
    """Keeping messages back until somebody lets them go on.

    A pause is a value with a name, kept with its queue. The pause whose name is empty holds the
    queue: nothing of it is delivered, to nobody, from the step on in which it begins. What others
    are for, consumers judge, since brokers know nothing of tasks: every delivery carries the
    pauses of its queue, and a message that one of them is for is settled with `Action.PARK`.
    Parked messages count as delayed; they can be cancelled, purged and replaced. Everything else
    goes on during a pause, `put` above all.
    """

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The pauses of a queue by name."""

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause; one of this name gets the new value.

        Raises:
            BrokerUnavailable: The server cannot be reached; calling again is harmless.
        """

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause; what is parked under its name waits again, before what came later.

        Returns:
            Whether there was one, or anything parked.

        Raises:
            BrokerUnavailable: Perhaps done in part; call again.
        """


@runtime_checkable
class Remembering(Protocol):
    """Small named values that belong to a queue: schedules, progress, checkpoints.

    A value is at most some kilobytes; a kind holds at most some thousands of names.
    """

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind, by name."""

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value; `None` if there is none, or its time is over."""

    async def set_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        ttl_seconds: float | None = None,
    ) -> None:
        """Keep a value, for so long if that is said; `None` deletes it."""

    async def replace_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        expected: bytes | None,
        messages: Sequence[Outgoing] = (),
    ) -> bool:
        """Keep a value if the one there is `expected`, and put messages, all in one atomic step.

        Args:
            expected: `None` for no value yet.
            messages: Put as by `put`, all into this queue, only if the value was replaced.

        Returns:
            Whether the value was the expected one.

        Raises:
            BrokerUnavailable: Not known to be done; read the value to find out.
        """
