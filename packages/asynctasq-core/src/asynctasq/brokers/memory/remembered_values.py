"""Small named values of queues, some of which expire."""

from __future__ import annotations

from collections.abc import Callable


class RememberedValues:
    """The values of all queues in a store.

    Args:
        clock: Gives Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], dict[str, tuple[float, bytes]]] = {}

    def all(self, queue: str, kind: str) -> dict[str, bytes]:
        """All values of a kind; forgets those that have expired."""
        kept, now = self._kinds.get((queue, kind), {}), self._clock()
        for name in [name for name, (expires, _) in kept.items() if expires <= now]:
            del kept[name]
        return {name: value for name, (_, value) in kept.items()}

    def get(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value."""
        expires, value = self._kinds.get((queue, kind), {}).get(name, (0.0, None))
        return value if expires > self._clock() else None

    def set(
        self, queue: str, kind: str, name: str, value: bytes | None, ttl_seconds: float | None
    ) -> None:
        """Keep a value, or delete it."""
        kept = self._kinds.setdefault((queue, kind), {})
        if value is None:
            kept.pop(name, None)
        else:
            expires = float("inf") if ttl_seconds is None else self._clock() + ttl_seconds
            kept[name] = (expires, bytes(value))

    def delete_all(self, queue: str, kind: str) -> None:
        """Delete all values of a kind."""
        self._kinds.pop((queue, kind), None)
