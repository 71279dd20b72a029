"""The unique keys of one queue, and which message holds each."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

from .. import KeyInUse, Policy, UniqueKey
from .messages import StoredMessage


@dataclass(slots=True)
class _Taken:
    holder: str
    key: UniqueKey
    expires: float


class UniqueKeys:
    """The keys that are taken."""

    def __init__(self) -> None:
        self._taken: dict[str, _Taken] = {}
        self._expiring: list[tuple[float, str]] = []

    def holder(self, policy: Policy | None, now: float) -> str | None:
        """The id of the key's holder; `None` if the key is free, or the policy has none."""
        if policy is None or policy.unique is None:
            return None
        while self._expiring and self._expiring[0][0] <= now:
            key = heappop(self._expiring)[1]
            if key in self._taken and self._taken[key].expires <= now:
                del self._taken[key]
        taken = self._taken.get(policy.unique.key)
        return taken.holder if taken else None

    def take(self, message: StoredMessage, now: float) -> None:
        """Give a newly added message its key, unless it holds the key already."""
        key = message.policy.unique if message.policy else None
        if key is None or key.key in self._taken:
            return
        expires = float("inf") if key.lasts_seconds is None else now + key.lasts_seconds
        self._taken[key.key] = _Taken(message.id, key, expires)
        if key.lasts_seconds is not None:
            heappush(self._expiring, (expires, key.key))

    def started(self, message: StoredMessage) -> None:
        """Note that a message was delivered; frees its key if that is what frees it."""
        if message.policy and message.policy.unique and message.policy.unique.until == "started":
            self.ended(message)

    def take_again(self, message: StoredMessage, now: float) -> None:
        """Undo a premature delivery: give back the key that it freed, if still free."""
        key = message.policy.unique if message.policy else None
        if key is None or key.until != "started" or key.lasts_seconds is not None:
            return
        if self.holder(message.policy, now) is None:
            self.take(message, now)

    def ended(self, message: StoredMessage) -> None:
        """Note that a message is done, dead or removed; frees its key."""
        key = message.policy.unique if message.policy else None
        if key is None:
            return
        taken = self._taken.get(key.key)
        if taken and taken.holder == message.id and taken.key.lasts_seconds is None:
            del self._taken[key.key]

    def in_use(self, now: float) -> list[KeyInUse]:
        """The keys that are taken."""
        return [
            KeyInUse("unique", name, (taken.holder,))
            for name, taken in self._taken.items()
            if taken.expires > now
        ]
