"""Sending: now, or when a transaction has committed."""

from __future__ import annotations

from typing import Protocol


class DeferredSend(Protocol):
    """A dispatch that waits for a transaction; exactly one of its three ends is used once."""

    def __call__(self) -> None:
        """Send now and block until the broker has the message; usable in any thread."""

    async def send_async(self) -> None:
        """Send now, from a running event loop."""

    def drop(self) -> None:
        """Forget it: the transaction, or the savepoint it belongs to, was rolled back."""
