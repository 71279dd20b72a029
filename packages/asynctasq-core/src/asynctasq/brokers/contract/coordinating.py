"""What lets the workers of a broker agree on who of them does what; a broker may do without."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


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
