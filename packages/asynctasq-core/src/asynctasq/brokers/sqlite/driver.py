"""The entry point of the SQLite broker, with its options."""

from ..contract import Broker
from .config import SQLiteConfig as Config

__all__ = ["Config", "main_option", "open"]

main_option = "path"


def open(config: Config) -> Broker:
    """A broker that has not opened its file yet."""
    from .broker import SQLiteBroker

    return SQLiteBroker(config)
