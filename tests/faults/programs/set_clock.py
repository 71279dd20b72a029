"""A clock that the file `clock` sets, by so many seconds, while the process runs.

To be imported before what takes `time.time` from its module.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

_time, _time_ns = time.time, time.time_ns


def _seconds() -> float:
    with suppress(OSError, ValueError):
        return float(Path("clock").read_text())
    return 0.0


time.time = lambda: _time() + _seconds()
time.time_ns = lambda: _time_ns() + int(_seconds() * 1e9)
