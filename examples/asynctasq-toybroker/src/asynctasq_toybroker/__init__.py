"""Queues in one file that the processes of a machine share."""

from asynctasq.brokers import Broker

from .config import Config

__all__ = ["Config", "main_option", "open"]

main_option = "folder"


def open(config: Config) -> Broker:
    """A broker that has not touched the folder yet."""
    from .broker import ToyBroker

    return ToyBroker(config)
