"""The memory broker's messages, and where each of them is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from .. import MessageState, Policy

RETURNED, DUE, NEW = range(3)
"""Ranks of waiting messages; smaller ranks are taken first."""

Order = tuple[int, int, float, int]
"""The order of waiting messages: priority (negated), rank, place, serial."""


class Stand(Enum):
    """Where a waiting message with a limit or rate stands; each line has one not BEHIND."""

    OPEN = auto()  # visible to takes
    LIMITED = auto()  # parked until a message of its limit ends
    RATED = auto()  # parked until its rate lets it pass
    BEHIND = auto()  # another is ahead of it in its line


@dataclass(slots=True, eq=False)
class StoredMessage:
    """A message in a queue of this process.

    Attributes:
        at: When it is due, when its lease ends, or when it died.
        lease: Changes with each change of state, which invalidates references to earlier states.
        order: While it waits: its place among the waiting messages.
        counted: Whether its rate has counted it already, in case it is delivered again.
        parked: The name of the pause that it is parked under; empty if it is not parked.
    """

    queue: str
    id: str
    body: bytes
    place: int
    priority: int = 0
    policy: Policy | None = None
    state: MessageState = "delayed"
    at: float = 0.0
    deliveries: int = 0
    owner: str = ""
    lease: int = 0
    info: bytes = b""
    order: Order = (0, 0, 0.0, 0)
    stand: Stand = Stand.OPEN
    counted: bool = False
    parked: str = ""

    @property
    def has_line(self) -> bool:
        """Whether it has a limit or rate, so that it must be judged before it may run."""
        policy = self.policy
        return policy is not None and (policy.limit is not None or policy.rate is not None)
