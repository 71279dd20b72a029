"""What task bodies call: it counts in the worker's memory, and writes a file at the last one.

So measuring adds nothing to the broker's load. `BENCH_OUT` names the file, `BENCH_N` the last one.
"""

from __future__ import annotations

import itertools
import json
import os
import time

N = int(os.environ.get("BENCH_N", "0"))
_count = itertools.count(1)  # next() is atomic: tasks may run in threads
_latencies_ns: list[int] = []
_first: tuple[int, float] | None = None


def begin() -> None:
    """Note the first task's start."""
    global _first
    if _first is None:
        _first = (time.time_ns(), time.process_time())


def tick() -> None:
    """Count one task; at the Nth, write when first and last ran and the CPU between them."""
    n = next(_count)
    if n == 1:
        begin()
    if n == N and _first is not None:
        cpu = time.process_time() - _first[1]
        _write({"first_ns": _first[0], "last_ns": time.time_ns(), "cpu_s": cpu})


def compute(seconds: float = 0.001) -> None:
    """Keep the processor busy for so long, then count one task."""
    begin()
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    tick()


def latency(sent_ns: int) -> None:
    """Note how long ago the task was sent; the first says that the worker is up, the Nth writes.

    The first two are left out: the worker has just started, and the sender connects.
    """
    _latencies_ns.append(time.time_ns() - sent_ns)
    n = next(_count)
    if n == 1:
        open(os.environ["BENCH_OUT"] + ".ready", "w").close()
    if n == N:
        _write({"latencies_ns": _latencies_ns[2:]})


def _write(found: dict[str, object]) -> None:
    out = os.environ["BENCH_OUT"]
    with open(out + ".part", "w") as file:
        json.dump({**found, "peak_mb": _peak_mb()}, file)
    os.rename(out + ".part", out)


def _peak_mb() -> float:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
