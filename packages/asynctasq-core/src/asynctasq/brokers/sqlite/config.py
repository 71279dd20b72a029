"""The embedded broker's options: where its file is and how it is shared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteConfig:
    """The embedded broker: one file shared by the processes of one machine.

    Attributes:
        path: The file; its folder is created if missing.
        poll_interval: Seconds between checks for other processes' changes; a check runs no query.
        busy_timeout: Seconds to wait for another process's transaction.
        synchronous: `"normal"` survives a killed process; `"full"` also survives a power cut.
    """

    path: str | Path = ".asynctasq/queue.db"
    poll_interval: float = 0.01
    busy_timeout: float = 5.0
    synchronous: Literal["normal", "full"] = "normal"
