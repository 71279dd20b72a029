"""What authors of brokers see: the contract, and the brokers that come with core."""

from .backoff import Backoff
from .contract import (
    Action,
    Broker,
    Consumer,
    ConsumerOptions,
    Consuming,
    Coordinating,
    DeadLetter,
    Delivery,
    Finding,
    Looking,
    MessageState,
    Outcome,
    Outgoing,
    QueueStats,
    Sending,
    WorkerInfo,
)

__all__ = [
    "Action",
    "Backoff",
    "Broker",
    "Consumer",
    "ConsumerOptions",
    "Consuming",
    "Coordinating",
    "DeadLetter",
    "Delivery",
    "Finding",
    "Looking",
    "MessageState",
    "Outcome",
    "Outgoing",
    "QueueStats",
    "Sending",
    "WorkerInfo",
]
