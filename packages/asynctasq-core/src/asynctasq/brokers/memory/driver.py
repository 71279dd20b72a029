"""The entry point of the memory broker, which has no options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..contract import Broker

if TYPE_CHECKING:
    from .store import MemoryStore

__all__ = ["Config", "open"]


@dataclass(frozen=True, eq=False)
class Config:
    """No options; each configuration has its own queues."""


_stores: WeakKeyDictionary[Config, MemoryStore] = WeakKeyDictionary()


def open(config: Config) -> Broker:
    """A broker on this configuration's queues, which all its event loops and threads share."""
    from .broker import MemoryBroker
    from .store import MemoryStore

    return MemoryBroker(_stores.setdefault(config, MemoryStore()))
