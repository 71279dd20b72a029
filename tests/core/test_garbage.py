"""The garbage collector of a worker's process: less often, but never off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import gc
from pathlib import Path

import asynctasq

asynctasq.init(sqlite="queue.db")
seen = []


class Node:
    def __init__(self):
        self.me, self.data = self, bytearray(1000)


def resident_kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@asynctasq.task
async def leave_cycles():
    [Node() for _ in range(10)]
    seen.append((gc.get_freeze_count(), gc.get_threshold()[0]))
    if len(seen) in (2000, 6000):
        print(resident_kilobytes())


if __name__ == "__main__":
    before = gc.get_threshold()
    asynctasq.dispatch_many_sync(leave_cycles() for _ in range(6000))
    asynctasq.run_worker(burst=True, concurrency=100)
    print(seen[0][0] > 0, seen[0][1] > before[0], gc.get_threshold() == before)
    print(gc.get_freeze_count())
"""


def run(folder: Path, **environment: str) -> list[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=folder,
        env={"ASYNCTASQ_PLUGINS": "", "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_tasks_that_leave_cycles(tmp_path: Path) -> None:
    early, late, is_frozen, is_higher, is_restored, frozen_after = run(tmp_path)
    assert (is_frozen, is_higher, is_restored, frozen_after) == ("True", "True", "True", "0")
    assert int(late) - int(early) < 15_000  # of the 40,000 kB that the cycles hold


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_collector_stays_as_it_is_where_that_is_wished(tmp_path: Path) -> None:
    *_, is_frozen, is_higher, is_restored, _ = run(tmp_path, ASYNCTASQ_GC_TUNING="false")
    assert (is_frozen, is_higher, is_restored) == ("False", "False", "True")
