"""What a broker shows to people, and what they may do with what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .consuming import WorkerInfo


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages of a queue are in each state."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be run again unless somebody retries it.

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
    """A message that has been put and not ended.

    Attributes:
        deliveries: How often it was delivered, as `Delivery.deliveries`; 0 before the first time.
        due: Unix time in seconds before which nobody may take it, while it is delayed; `None` while
            it is parked until the end of a pause.
        worker: Id of the worker that it is leased to, while it runs.
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
    """A part of the messages in one state.

    Attributes:
        after: Where the next page begins, as text that only its broker reads; `None` at the end.
    """

    messages: list[HeldMessage]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `asynctasq doctor`.

    Attributes:
        level: `ok`, `warning` (works, but read this) or `error` (does not work).
        subject: What was looked at, such as `redis` or `sqlalchemy engine`.
        text: What was found.
        advice: What to change; empty when nothing.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    advice: str = ""


class Looking(Protocol):
    """Counts, workers, dead letters, and how the server is."""

    async def stats(self) -> list[QueueStats]:
        """Every known queue, by name."""

    async def workers(self) -> list[WorkerInfo]:
        """Workers that gave a sign of life within their lease."""

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the queue's dead letters, newest first."""

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """Those of these dead letters that the queue holds, in any order, in few round trips."""

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting, each under its id with the body given.

        Returns:
            How many there were; an id that is not among the dead letters is passed over.
        """

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete these dead letters, or all of the queue; returns how many."""

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed in the queue; returns how many."""

    async def check(self) -> list[Finding]:
        """What `asynctasq doctor` says of the server."""

    def describe(self) -> str:
        """Kind and address for a log line, never with a password."""


@runtime_checkable
class Listing(Protocol):
    """Which messages a queue holds; a broker may do without."""

    async def held(
        self, queue: str, state: HeldState, *, limit: int = 100, after: str | None = None
    ) -> HeldPage:
        """A page of the messages in a state: waiting and delayed ones about as they will be taken.

        Pages that are read one after the other hold each message once that stays where it is all
        the while; one that moves may be left out, or come twice.

        Args:
            limit: Most messages of the page. It has fewer where they are large, or where others
                had to be passed over; what a page costs does not grow with the queue.
            after: `HeldPage.after` of the page before.

        Raises:
            ValueError: `after` is nothing that this broker gives.
        """

    async def find_held(self, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
        """Those of these messages that wait, are delayed or run, in any order."""
