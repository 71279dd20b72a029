"""What the memory broker holds: messages, and where each of them is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from .. import MessageState, Policy

RETURNED, DUE, NEW = range(3)
"""Ranks of what waits: a smaller one is taken first."""

Order = tuple[int, int, float, int]
"""What waits is taken in this order: priority (negated), rank, place, serial."""


class Stand(Enum):
    """Where a waiting message with a limit or a rate is; each line has one that is not BEHIND."""

    OPEN = auto()  # among what a take looks at
    LIMITED = auto()  # until a message of its limit ends
    RATED = auto()  # until its rate lets it pass
    BEHIND = auto()  # another is before it in its line


@dataclass(slots=True, eq=False)
class StoredMessage:
    """A message.

    Attributes:
        at: When it is due, when its lease ends, or when it died.
        lease: Changes with each change of state, so that what names an earlier one is void.
        order: While it waits: its place among what waits.
        counted: Whether its rate has counted this delivery already, should it be delivered again.
        parked: The name of the pause under which it is parked, while it is.
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
        """Whether it must be asked for whether it may run."""
        policy = self.policy
        return policy is not None and (policy.limit is not None or policy.rate is not None)
