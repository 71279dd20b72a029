"""Queues of asynctasq in PostgreSQL."""

from asynctasq.brokers import Broker

from .config import PostgresConfig as Config

__all__ = ["Config", "main_option", "open"]
__version__ = "0.1.0"

main_option = "url"


def open(config: Config) -> Broker:
    """A broker that has not connected yet."""
    from .broker import PostgresBroker

    return PostgresBroker(config)
