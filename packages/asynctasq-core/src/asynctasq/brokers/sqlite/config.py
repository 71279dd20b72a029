"""Where the embedded broker's file is, and how it is shared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteConfig:
    """The embedded broker: one file shared by the processes of one machine.

    Attributes:
        path: The file; its folder is created.
        poll_interval: Seconds between looks for work of other processes, without a query.
        busy_timeout: Seconds to wait for another process's transaction.
        synchronous: `"normal"` survives a killed process; `"full"` also a power cut.
    """

    path: str | Path = ".asynctasq/queue.db"
    poll_interval: float = 0.01
    busy_timeout: float = 5.0
    synchronous: Literal["normal", "full"] = "normal"
