"""The entry point of the Redis broker, with its options."""

from ..contract import Broker
from .config import RedisConfig as Config

__all__ = ["Config", "main_option", "open"]

main_option = "url"


def open(config: Config) -> Broker:
    """A broker that is not connected yet; imports the client, which is slow."""
    from .broker import RedisBroker

    return RedisBroker(config)
