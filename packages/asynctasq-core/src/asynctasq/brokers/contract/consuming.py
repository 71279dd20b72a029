"""What a broker does for workers: it leases messages and applies outcomes atomically."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


@dataclass(slots=True)
class Delivery:
    """A message leased to a consumer.

    Attributes:
        deliveries: How often it was delivered, including this time; a release or postponement is
            not counted.
        tag: The broker's own handle for the delivery.
        pauses: The queue's pauses (`Pausing`) by name, as of the step that leased the message;
            `None` if there are none.
    """

    queue: str
    id: str
    body: bytes = field(repr=False)  # keep arguments out of tools that log local variables
    deliveries: int
    tag: Any
    pauses: Mapping[str, bytes] | None = None


class Action(Enum):
    """What becomes of a delivery."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    RELEASE = "release"
    POSTPONE = "postpone"
    PARK = "park"


@dataclass(slots=True)
class Outcome:
    """What becomes of one delivery, applied in one atomic step.

    Attributes:
        action: DONE forgets the message. RETRY replaces its body with `body`, delays it by `delay`
            seconds and resets its delivery count. DEAD moves it to the dead letters with `info`,
            replacing its body if `body` is given. RELEASE gives it back, to be delivered to anyone
            at once and ahead of later messages, as if this delivery had never happened. POSTPONE
            delays it by `delay` seconds, replacing its body if `body` is given, with its delivery
            count as if this delivery had never happened. PARK (only for a broker that is `Pausing`)
            holds it until the pause named `pause` is over, as if this delivery had never happened;
            if that pause is already over, it is not held.
        body: The new body; `None` keeps the old one.
        delay: RETRY and POSTPONE: seconds from now until the message is due.
        info: DEAD: bytes kept with the dead letter.
        result: DONE and DEAD: bytes to keep for `Sending.result`.
        result_ttl: How long to keep `result`, in seconds.
        pause: PARK: the name of the pause.
    """

    delivery: Delivery
    action: Action = Action.DONE
    body: bytes | None = None
    delay: float = 0.0
    info: bytes = b""
    result: bytes | None = None
    result_ttl: float = 0.0
    pause: str = ""


@dataclass(slots=True)
class WorkerInfo:
    """A worker process as `asynctasq status` shows it.

    Attributes:
        id: Unique to each start of a process.
        started_at: Unix time in seconds.
        running: How many messages it holds; filled in by `Broker.workers`.
        is_blocked: Whether a task blocks its event loop. May change while the worker lives; each
            `Consumer.renew` reports the current value.
    """

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    started_at: float
    running: int = 0
    is_blocked: bool = False


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How one worker process takes messages.

    Attributes:
        queues: In order of priority: messages of an earlier queue are taken first.
        lease_seconds: How long a worker that shows no sign of life keeps its deliveries.
    """

    worker: WorkerInfo
    queues: tuple[str, ...]
    lease_seconds: float = 30.0


class Consumer(Protocol):
    """One worker process's end of the broker."""

    async def start(self) -> None:
        """Connect, announce the worker and create what the queues need.

        Raises:
            BrokerUnavailable: The server cannot be reached.
        """

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Lease up to `limit` (>= 1) messages, waiting up to `timeout_seconds` for the first.

        Earlier queues come first. Within a queue, messages whose lease expired or that were
        released come before new ones. Delayed messages that are due come between the two, or join
        the new ones at the end; brokers differ here. All this takes one round trip where the server
        allows it. Returns as soon as there is anything. A cancelled call loses nothing: what it may
        have leased is given back by `stop`, or delivered again once the lease expires.

        Raises:
            BrokerUnavailable: The server cannot be reached; calling again reconnects.
        """

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply the outcomes in one round trip, each atomically; repeating a call is harmless.

        Returns:
            The outcomes that changed nothing because this consumer no longer held the lease.

        Raises:
            BrokerUnavailable: The outcomes may not be applied; call again with the same ones.
            OutcomesRefused: Some are too large for the server; all others are applied.
        """

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases of `held` and the worker's sign of life; called in its own thread.

        Returns:
            The deliveries whose lease was already lost.

        Raises:
            BrokerUnavailable: The server cannot be reached; calling again reconnects.
        """

    async def idle(self) -> bool:
        """Whether nothing in its queues is waiting, delayed or running, for any worker.

        Messages held by a pause do not count; running ones do.
        """

    async def stop(self) -> None:
        """Release what this consumer still leases, withdraw the worker and close connections.

        Never raises when the server is unreachable: the leases then expire by themselves.
        """


class Consuming(Protocol):
    """Giving messages to workers."""

    def consumer(self, options: ConsumerOptions) -> Consumer:
        """A consumer that has not started yet."""

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Release everything leased to a worker that is known to be dead, without waiting.

        Its messages can be delivered again at once; they keep their delivery counts.
        """
