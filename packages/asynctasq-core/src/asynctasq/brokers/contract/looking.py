"""What a broker shows to people, and what they can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .consuming import WorkerInfo


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many of a queue's messages are in each state."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not run again unless someone retries it.

    Attributes:
        died_at: Unix time in seconds.
    """

    queue: str
    id: str
    body: bytes
    info: bytes
    died_at: float


HeldState = Literal["waiting", "delayed", "running"]


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A message in a queue that has not ended.

    Attributes:
        deliveries: How often it was delivered, as in `Delivery.deliveries`; 0 before the first
            time.
        due: For a delayed message, the earliest Unix time, in seconds, at which it may be taken;
            `None` while it is parked by a pause.
        worker: For a running message, the id of the worker that leases it.
    """

    queue: str
    id: str
    body: bytes
    state: HeldState
    deliveries: int = 0
    due: float | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class HeldPage:
    """One page of the messages in a state.

    Attributes:
        after: Where the next page begins, as text that only this broker understands; `None` at the
            end.
    """

    messages: list[HeldMessage]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `asynctasq doctor`.

    Attributes:
        level: `ok`, `warning` (works, but read this) or `error` (does not work).
        subject: What was checked, such as `redis` or `sqlalchemy engine`.
        text: What was found.
        advice: What to change; empty if nothing.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    advice: str = ""


class Looking(Protocol):
    """Counts, workers, dead letters and the server's health."""

    async def stats(self) -> list[QueueStats]:
        """All known queues, ordered by name."""

    async def workers(self) -> list[WorkerInfo]:
        """Workers that have shown a sign of life within their lease."""

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the queue's dead letters, newest first."""

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters among these ids, in any order, in few round trips."""

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting; each keeps its id and gets the body given with it.

        Returns:
            How many were moved; ids that are not dead letters are skipped.
        """

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete these dead letters, or all in the queue; return how many."""

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed in the queue; return how many."""

    async def check(self) -> list[Finding]:
        """What `asynctasq doctor` reports about the server."""

    def describe(self) -> str:
        """The server's kind and address for a log line, never with a password."""


@runtime_checkable
class Listing(Protocol):
    """Listing a queue's messages; optional for a broker."""

    async def held(
        self, queue: str, state: HeldState, *, limit: int = 100, after: str | None = None
    ) -> HeldPage:
        """A page of the messages in a state, roughly in the order in which they will be taken.

        Reading one page after another shows each message that does not move exactly once; one that
        moves meanwhile may be missed or shown twice.

        Args:
            limit: Maximum number of messages. A page holds fewer if they are large, or if others
                had to be skipped; its cost does not grow with the queue.
            after: `HeldPage.after` of the previous page.

        Raises:
            ValueError: `after` did not come from this broker.
        """

    async def find_held(self, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
        """The messages among these ids that are waiting, delayed or running, in any order."""
