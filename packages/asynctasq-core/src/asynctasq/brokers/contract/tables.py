"""What a broker in a database offers to whoever looks after that; a broker may do without."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class KeepingTables(Protocol):
    """Tables of the broker's own, for `asynctasq tables`."""

    def tables(self) -> str:
        """The SQL that creates them where there are none; needs no connection."""

    async def create_tables(self) -> None:
        """Create what is missing, and bring what is there to this version; harmless if repeated.

        Raises:
            BrokerUnavailable: The server cannot be reached.
            BrokerError: The user may not, or the tables are of a later version.
        """
