"""The contract between asynctasq and whatever holds its queues.

A broker moves opaque bytes with a small header; it knows nothing of tasks, messages or ORMs.
It owns these invariants, which `asynctasq.testing.BrokerSuite` checks for every implementation:

* At every instant a message is in exactly one state: waiting, delayed, running (leased) or dead.
  Each transition is atomic; a process or a server killed at any point loses no message.
* A taken message is leased to its consumer. While `Consumer.renew` is called often enough, no one
  else receives it; once the lease has run out it is delivered again, with `deliveries` one higher,
  to any consumer that calls `take`, also when nothing else happens in the queue.
* An outcome reported by a consumer that no longer holds the lease changes nothing.

Objects of this module belong to one event loop, except for `Consumer.renew`, which is synchronous
and called from one other thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import uniform
from typing import Any, Literal, Protocol

MessageState = Literal["waiting", "delayed", "running", "dead"]


@dataclass(slots=True)
class Outgoing:
    """A message on its way into a queue.

    Attributes:
        queue: Name of the queue.
        id: The message's id, chosen by the sender.
        body: The encoded message.
        due: Unix time in seconds before which nobody may take it; `None` for at once.
    """

    queue: str
    id: str
    body: bytes
    due: float | None = None


@dataclass(slots=True)
class Delivery:
    """A message leased to a consumer.

    Attributes:
        deliveries: How often it was delivered, this time included; a release takes one back.
        tag: The broker's own locator of the delivery.
    """

    queue: str
    id: str
    body: bytes
    deliveries: int
    tag: Any


class Action(Enum):
    """What becomes of a delivery."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    RELEASE = "release"


@dataclass(slots=True)
class Outcome:
    """What becomes of one delivery, applied in one atomic step.

    Attributes:
        action: DONE forgets the message. RETRY replaces its body by `body` and makes it wait until
            `delay` seconds from now; its delivery count starts again. DEAD moves it to the dead
            letters with `info` (and `body` in place of its own if that is given). RELEASE gives it
            back, to be delivered to anyone at once, ahead of what came later, as if this delivery
            had not been.
        info: DEAD: bytes kept with the dead letter.
        result: DONE and DEAD: bytes to keep for `Broker.result` for `result_ttl` seconds.
    """

    delivery: Delivery
    action: Action = Action.DONE
    body: bytes | None = None
    delay: float = 0.0
    info: bytes = b""
    result: bytes | None = None
    result_ttl: float = 0.0


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


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages of a queue are in each state."""

    name: str
    waiting: int
    running: int
    delayed: int
    dead: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process as `asynctasq status` shows it.

    Attributes:
        id: Unique per process start.
        started_at: Unix time in seconds.
    """

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    started_at: float
    running: int = 0


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


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How one worker process takes messages.

    Attributes:
        queues: In order of priority: a message of an earlier queue is taken first.
        lease_seconds: How long a delivery is kept for a worker that gives no sign of life.
    """

    worker: WorkerInfo
    queues: tuple[str, ...]
    lease_seconds: float = 30.0


class Consumer(Protocol):
    """One worker process's end of the broker."""

    async def start(self) -> None:
        """Connect, announce the worker, create what the queues need.

        Raises:
            BrokerUnavailable: The server cannot be reached.
        """

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Lease up to `limit` (>= 1) messages, waiting up to `timeout_seconds` for the first.

        Takes, in one round trip where the server allows it, messages whose former lease ran out
        or that were released, then new ones; earlier queues first. Delayed ones that are due come
        between these, or join the new ones at the end, as suits the broker. Returns as soon as
        there is anything. A cancelled call loses nothing: what it may have leased is given back by
        `stop`, or delivered again when the lease runs out.

        Raises:
            BrokerUnavailable: The server cannot be reached; calling again reconnects.
        """

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply the outcomes, each atomically, all in one round trip; repeating a call is harmless.

        Returns:
            Those that changed nothing because the lease was no longer this consumer's.

        Raises:
            BrokerUnavailable: Not known to be applied; call again with the same outcomes.
            OutcomesRefused: Some are too large for the server; all others are applied.
        """

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases of `held` and the worker's sign of life. Synchronous, on its own thread.

        Returns:
            Those whose lease was already lost.

        Raises:
            BrokerUnavailable: The server cannot be reached; calling again reconnects.
        """

    async def idle(self) -> bool:
        """Whether its queues hold nothing waiting, delayed or running, by anyone."""

    async def stop(self) -> None:
        """Release what is still leased to this consumer, withdraw the worker, close connections.

        Never raises when the server is away: leases then run out by themselves.
        """


class Broker(Protocol):
    """Everything but consuming; connects by itself when first used.

    Attributes:
        timeout_seconds: How long `put` tries while the server is away.
    """

    timeout_seconds: float

    async def put(self, messages: Sequence[Outgoing]) -> None:
        """Add the messages, in order, in as few round trips as the server allows (one per slot).

        A message whose id its queue holds already is left as it is, so a call that failed may be
        repeated. Only a message that was added and done before the repetition is added again.

        Raises:
            BrokerUnavailable: Within a bounded time, when the server cannot be reached or refuses
                writes; none or some of the messages may have been added.
        """

    def consumer(self, options: ConsumerOptions) -> Consumer:
        """A consumer that has not started yet."""

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now; `None` when the queue does not hold it (any more)."""

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a message that is waiting or delayed, keeping `result` if there is one.

        Returns:
            Whether it was removed; `False` when it is running, dead or unknown.
        """

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """The kept result, woken as soon as it is there; `None` after `timeout_seconds`."""

    async def stats(self) -> list[QueueStats]:
        """Every known queue, by name."""

    async def workers(self) -> list[WorkerInfo]:
        """Workers that gave a sign of life within their lease."""

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the queue's dead letters, newest first."""

    async def dead_letter(self, queue: str, message_id: str) -> DeadLetter | None:
        """One dead letter."""

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting, each under its id with the body given.

        Returns:
            How many there were; an id that is not among the dead letters is passed over.
        """

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete these dead letters, or all of the queue; returns how many."""

    async def purge(self, queue: str) -> int:
        """Delete everything waiting or delayed in the queue; returns how many."""

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Let go of everything leased to a worker that is known to be dead, without waiting.

        Its messages are delivered again at once, with their delivery count kept.
        """

    async def check(self) -> list[Finding]:
        """What `asynctasq doctor` says of the server."""

    def describe(self) -> str:
        """Kind and address for a log line, never with a password."""

    async def close(self) -> None:
        """Close every connection; the broker may be used again afterwards."""


@dataclass(slots=True)
class Backoff:
    """Waiting times between attempts to reach a server: doubling, with jitter.

    Attributes:
        first_seconds: Upper bound of the first wait.
        most_seconds: Upper bound of any wait.
    """

    first_seconds: float = 0.05
    most_seconds: float = 2.0
    _failures: int = field(default=0, init=False)

    def next(self) -> float:
        """Seconds to wait now; each call doubles the bound until `reset`."""
        bound = min(self.most_seconds, self.first_seconds * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        return uniform(bound / 2, bound)

    def reset(self) -> None:
        """Start over after a success."""
        self._failures = 0
