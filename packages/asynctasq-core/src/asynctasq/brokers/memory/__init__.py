"""The broker that lives in one process: for tests and trials."""

from .broker import MemoryBroker
from .store import MemoryStore

__all__ = ["MemoryBroker", "MemoryStore"]
