"""Counts of the tasks of several processes: each keeps its own in a file that it has mapped.

A process waits in its first task until each of the others has one too, so that what is measured is
all of them at work. `BENCH_TALLY` names the folder, `BENCH_PROCESSES` says how many there are.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

BYTES = 24
TOGETHER_SECONDS = 60

_lock = threading.Lock()
_own: memoryview | None = None


def note() -> None:
    """Count one task of this process."""
    global _own
    with _lock:
        if _own is None:
            _own = _join(Path(os.environ["BENCH_TALLY"]), int(os.environ["BENCH_PROCESSES"]))
        _own[0] += 1
        _own[2] = time.monotonic_ns()


def _join(folder: Path, processes: int) -> memoryview:
    """Count, first and last time of this process, once all processes are there."""
    with (folder / str(os.getpid())).open("wb+") as file:
        file.truncate(BYTES)
        own = memoryview(mmap.mmap(file.fileno(), BYTES)).cast("q")
    deadline = time.monotonic() + TOGETHER_SECONDS
    while len(os.listdir(folder)) < processes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{processes} processes did not all get a task: send more of them")
        time.sleep(0.001)
    own[1] = time.monotonic_ns()
    return own


@dataclass(frozen=True, slots=True)
class Tally:
    """What all processes together have done.

    Attributes:
        seconds: From when all of them had a task to the last one.
    """

    count: int
    processes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tasks per second; the first in each process ended when the time began."""
        return (self.count - self.processes) / self.seconds


def read(folder: Path) -> Tally:
    """Add up what the processes have counted so far."""
    owns = [memoryview(file.read_bytes()) for file in folder.iterdir()]
    numbers = [own.cast("q") for own in owns if len(own) == BYTES]
    if not numbers:
        return Tally(0, 0, 0.0)
    first, last = max(n[1] for n in numbers), max(n[2] for n in numbers)
    return Tally(sum(n[0] for n in numbers), len(numbers), (last - first) / 1e9)
