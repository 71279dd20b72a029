"""What a broker in a database offers to its administrator; optional for a broker."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class KeepingTables(Protocol):
    """The broker's own tables, for `asynctasq tables`."""

    def tables(self) -> str:
        """The SQL that creates the tables where they are missing; needs no connection."""

    async def create_tables(self) -> None:
        """Create missing tables and upgrade existing ones to this version; harmless if repeated.

        Raises:
            BrokerUnavailable: The server cannot be reached.
            BrokerError: The user lacks permission, or the tables are of a later version.
        """
