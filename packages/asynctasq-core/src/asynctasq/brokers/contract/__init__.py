"""The contract between asynctasq and whatever holds its queues.

A broker moves opaque bytes with a small header; it knows nothing of tasks, messages or ORMs.
It owns these invariants, which `asynctasq.testing.BrokerSuite` checks for every implementation:

* At any moment a message is in exactly one state: waiting, delayed, running (leased) or dead.
  Each transition is atomic; killing a process or a server at any point loses no message.
* A taken message is leased to its consumer. While `Consumer.renew` is called often enough, no one
  else receives it. Once the lease has expired, the message is delivered again, with `deliveries`
  one higher, to any consumer that calls `take`, even if nothing else happens in the queue.
* An outcome reported by a consumer that no longer holds the lease changes nothing.

Objects of the contract belong to one event loop, except for `Consumer.renew`, which is synchronous
and called from one other thread.
"""

from __future__ import annotations

from typing import Protocol

from .consuming import (
    Action,
    Consumer,
    ConsumerOptions,
    Consuming,
    Delivery,
    Outcome,
    WorkerInfo,
)
from .coordinating import Coordinating, KeyInUse, Pausing, Policing, Remembering
from .looking import (
    DeadLetter,
    Finding,
    HeldMessage,
    HeldPage,
    HeldState,
    Listing,
    Looking,
    QueueStats,
)
from .policies import LimitKey, Policy, RateKey, UniqueKey
from .sending import MessageState, Outgoing, Sending
from .tables import KeepingTables
from .transactional import Transactional

__all__ = [
    "Action",
    "Broker",
    "Consumer",
    "ConsumerOptions",
    "Consuming",
    "Coordinating",
    "DeadLetter",
    "Delivery",
    "Finding",
    "HeldMessage",
    "HeldPage",
    "HeldState",
    "KeepingTables",
    "KeyInUse",
    "LimitKey",
    "Listing",
    "Looking",
    "MessageState",
    "Outcome",
    "Outgoing",
    "Pausing",
    "Policing",
    "Policy",
    "QueueStats",
    "RateKey",
    "Remembering",
    "Sending",
    "Transactional",
    "UniqueKey",
    "WorkerInfo",
]


class Broker(Sending, Consuming, Looking, Protocol):
    """What an application and its workers need of a broker; it connects on first use.

    A broker that lets workers agree on who does what also implements `Coordinating`.
    """

    async def close(self) -> None:
        """Close all connections; the broker can be used again afterwards."""
