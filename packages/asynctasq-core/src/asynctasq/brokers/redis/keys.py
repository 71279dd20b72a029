"""Names of the keys in Redis.

Owns the rule that all keys of a queue share one hash tag, so that in a cluster they live in one
slot and one script can touch them all. Workers and queue names share the tag `registry`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote


class QueueKeys(NamedTuple):
    """The keys of one queue; the headers of the scripts say what each holds."""

    stream: bytes
    ids: bytes
    delayed: bytes
    bodies: bytes
    dead: bytes
    letters: bytes
    results: bytes
    look: bytes
    values: bytes
    admitted: bytes

    def result(self, message_id: str) -> bytes:
        """The key of a message's result, and the channel that wakes calls waiting for it."""
        return self.results + message_id.encode()

    def kind(self, kind: str) -> bytes:
        """The key of the small values of a kind."""
        return self.values + kind.encode()

    def value(self, kind: str, name: str) -> bytes:
        """The channel that wakes calls waiting for a change of a small value."""
        return self.kind(kind) + b":" + name.encode()


class Keys:
    """All keys under one prefix.

    Args:
        prefix: First part of every key; lets several applications share a server.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.alive, self.workers, self.queues, self.probe = (
            f"{prefix}:{{registry}}:{name}".encode()
            for name in ("alive", "workers", "queues", "probe")
        )
        self._of_queue: dict[str, QueueKeys] = {}

    def lead(self, name: str) -> bytes:
        """The key of a named lease."""
        return f"{self.prefix}:{{registry}}:lead:{name}".encode()

    def of(self, queue: str) -> QueueKeys:
        """The keys of a queue."""
        keys = self._of_queue.get(queue)
        if keys is None:
            # Quote the name: a brace in it would end the hash tag early.
            start = f"{self.prefix}:{{{quote(queue, safe=' /:@+')}}}:"
            keys = QueueKeys(
                *(
                    (start + name).encode()
                    for name in (
                        "stream",
                        "ids",
                        "delayed",
                        "bodies",
                        "dead",
                        "letters",
                        "result:",
                        "look",
                        "values:",
                        "admitted",
                    )
                )
            )
            self._of_queue[queue] = keys
        return keys
