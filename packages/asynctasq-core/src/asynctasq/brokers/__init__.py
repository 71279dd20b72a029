"""What authors of brokers see: the contract, and the brokers that come with core."""

from .contract import (
    Action,
    Backoff,
    Broker,
    Consumer,
    ConsumerOptions,
    DeadLetter,
    Delivery,
    Finding,
    MessageState,
    Outcome,
    Outgoing,
    QueueStats,
    WorkerInfo,
)

__all__ = [
    "Action",
    "Backoff",
    "Broker",
    "Consumer",
    "ConsumerOptions",
    "DeadLetter",
    "Delivery",
    "Finding",
    "MessageState",
    "Outcome",
    "Outgoing",
    "QueueStats",
    "WorkerInfo",
]
