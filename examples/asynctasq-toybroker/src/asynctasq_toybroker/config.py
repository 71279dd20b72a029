"""The options of the toy broker."""

from dataclasses import dataclass
from pathlib import Path


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
