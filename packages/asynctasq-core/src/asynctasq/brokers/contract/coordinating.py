"""Optional parts of a broker that let its workers coordinate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .sending import Outgoing


@runtime_checkable
class Coordinating(Protocol):
    """Named leases, each held by one process at a time.

    A slow holder may still believe in a lease that has passed to another. So work done under a
    lease must stay correct, if wasteful, when two processes do it.
    """

    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take the lease `name` atomically if it is free, expired, or already the holder's.

        Args:
            holder: Who asks; unique to each start of a process.
            ttl_seconds: How long the lease lasts from now; ask again well before it ends.

        Returns:
            Whether `holder` has the lease now.

        Raises:
            BrokerUnavailable: The server cannot be reached; the lease may have been taken.
        """

    async def resign(self, name: str, holder: str) -> None:
        """Give up the lease if `holder` has it, so that the next to ask gets it at once.

        Raises:
            BrokerUnavailable: The server cannot be reached; the lease expires by itself.
        """


@runtime_checkable
class Policing(Protocol):
    """Policies and priorities: marks a broker whose `put` accepts them."""

    async def keys_in_use(self, queue: str, *, limit: int = 100) -> list[KeyInUse]:
        """The keys that are taken or have messages, longest lines first.

        Where there are hundreds, a broker may look at some of them only.
        """


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """A policy key in use.

    Attributes:
        holders: Ids of the messages that hold it: for a limit, the running ones (and the ready
            ones, if the broker counts them); for a unique key, its one holder; for a rate, none.
        waiting: How many messages stand in its line.
        free_at: When a rate lets the next message pass, as Unix time in seconds; `None` for other
            kinds.
    """

    kind: Literal["unique", "limit", "rate"]
    key: str
    holders: tuple[str, ...] = ()
    waiting: int = 0
    free_at: float | None = None


@runtime_checkable
class Pausing(Protocol):
    """Holding messages back until someone resumes them.

    A pause is a named value, kept with its queue. The pause with the empty name holds the whole
    queue: from the step in which it begins, nothing in the queue is delivered to anyone. What other
    pauses apply to is for consumers to judge, since brokers know nothing of tasks: every delivery
    carries its queue's pauses, and the consumer settles a paused message with `Action.PARK`.
    Parked messages count as delayed; they can be cancelled, purged and replaced. Everything else,
    above all `put`, works as usual during a pause.
    """

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The queue's pauses, by name."""

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause; an existing one of this name gets the new value.

        Raises:
            BrokerUnavailable: The server cannot be reached; calling again is harmless.
        """

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause; messages parked under its name wait again, ahead of later ones.

        Returns:
            Whether there was such a pause, or anything was parked.

        Raises:
            BrokerUnavailable: It may be partly done; call again.
        """


@runtime_checkable
class Remembering(Protocol):
    """Small named values that belong to a queue: schedules, progress, checkpoints.

    A value mostly has a few kilobytes; a kind mostly has a few thousand names.
    """

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind, by name."""

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value; `None` if it does not exist or has expired."""

    async def set_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        ttl_seconds: float | None = None,
        wakes: bool = False,
    ) -> None:
        """Keep a value, for `ttl_seconds` if given; the value `None` deletes it.

        Args:
            wakes: Wake those who wait in `changed_value`.
        """

    async def changed_value(
        self, queue: str, kind: str, name: str, known: bytes | None, timeout_seconds: float
    ) -> bytes | None:
        """Wait until the value is another than `known`, and return it; else it after the timeout.

        Returns at once if it is another already. A change that was made with `wakes` is seen at
        once; others, and the end of a value's time, may be seen only after the timeout.
        """

    async def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind; those set meanwhile may stay."""

    async def replace_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        expected: bytes | None,
        messages: Sequence[Outgoing] = (),
        wakes: bool = False,
    ) -> bool:
        """Replace a value if it is `expected`, and put messages, all in one atomic step.

        Args:
            expected: The current value; `None` if there must be none.
            messages: Put as by `put`, all into this queue, only if the value was replaced.
            wakes: As in `set_value`.

        Returns:
            Whether the current value was the expected one.

        Raises:
            BrokerUnavailable: It may or may not be done; read the value to find out.
        """
