"""Queues in one file that the processes of a machine share."""

from dataclasses import dataclass
from pathlib import Path

from asynctasq.brokers import Broker

__all__ = ["Config", "main_option", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the queues are.

    Attributes:
        folder: Holds the file and its lock; made when first used.
        poll_interval: Seconds between looks for changes.
        timeout: Seconds to wait for the lock.
    """

    folder: str | Path = ".toyqueue"
    poll_interval: float = 0.02
    timeout: float = 5.0


main_option = "folder"


def open(config: Config) -> Broker:
    """A broker that has not touched the folder yet."""
    from .broker import ToyBroker

    return ToyBroker(config)
