"""What a broker does for a worker: leases, and outcomes in one atomic step each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


@dataclass(slots=True)
class Delivery:
    """A message leased to a consumer.

    Attributes:
        deliveries: How often it was delivered, this time included; a release or a postponement
            takes one back.
        tag: The broker's own locator of the delivery.
        pauses: Those of the queue (`Pausing`) in the step in which it was leased, by name;
            `None` for none.
    """

    queue: str
    id: str
    body: bytes = field(repr=False)  # for what collects the variables of a traceback
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
        action: DONE forgets the message. RETRY replaces its body by `body` and makes it wait until
            `delay` seconds from now; its delivery count starts again. DEAD moves it to the dead
            letters with `info` (and `body` in place of its own if that is given). RELEASE gives it
            back, to be delivered to anyone at once, ahead of what came later, as if this delivery
            had not been. POSTPONE makes it wait until `delay` seconds from now, with its body (or
            `body` if that is given) and its delivery count as if this delivery had not been. PARK
            (only of a broker that is `Pausing`) makes it wait until the pause of this name is over,
            as if this delivery had not been: what is over already does not keep it back.
        info: DEAD: bytes kept with the dead letter.
        result: DONE and DEAD: bytes to keep for `Sending.result` for `result_ttl` seconds.
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
        id: Unique per process start.
        started_at: Unix time in seconds.
        running: How many messages it holds; found out by `Broker.workers`.
        is_blocked: Whether a task blocks its event loop. Changes while the worker lives; each
            `Consumer.renew` tells what it is then.
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
        between these, or join the new ones at the end; brokers differ in this. Returns as soon as
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
        """Whether its queues hold nothing waiting, delayed or running, by anyone.

        What a pause keeps back does not count, but for what is running.
        """

    async def stop(self) -> None:
        """Release what is still leased to this consumer, withdraw the worker, close connections.

        Never raises when the server is away: leases then run out by themselves.
        """


class Consuming(Protocol):
    """Giving messages to workers."""

    def consumer(self, options: ConsumerOptions) -> Consumer:
        """A consumer that has not started yet."""

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Let go of everything leased to a worker that is known to be dead, without waiting.

        Its messages are delivered again at once, with their delivery count kept.
        """
