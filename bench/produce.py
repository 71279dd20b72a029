"""The sending process of `bench.compare`, inside a peer's virtual environment.

    python -m bench.produce PEER one|bulk|gather|latency KIND N

Prints the seconds that sending took; connecting and the first send are not counted.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import time
from typing import Any

CHUNK = 500
INTERVAL_SECONDS = 0.01


async def _call(function: Any, *args: Any) -> None:
    answer = function(*args)
    if inspect.isawaitable(answer):
        await answer


async def _bulk(producer: Any, kind: str, n: int) -> None:
    for i in range(0, n, CHUNK):
        await _call(producer.send_many, kind, min(CHUNK, n - i))


async def _gather(producer: Any, kind: str, n: int) -> None:
    for i in range(0, n, CHUNK):
        await asyncio.gather(*(producer.send(kind) for _ in range(min(CHUNK, n - i))))


async def _one(producer: Any, kind: str, n: int) -> None:
    for _ in range(n):
        await _call(producer.send, kind)


async def _latency(producer: Any, kind: str, n: int) -> None:
    start = time.perf_counter()
    for i in range(n):
        await asyncio.sleep(max(0, start + i * INTERVAL_SECONDS - time.perf_counter()))
        await _call(producer.send, kind, time.time_ns())


async def main(peer: str, mode: str, kind: str, n: int) -> float:
    """Send `n` tasks; returns the seconds it took."""
    producer = importlib.import_module(f"bench.peers.{peer}").Producer()
    await _call(producer.open)
    if mode != "latency":
        await _call(producer.send, kind)
    send = {"one": _one, "bulk": _bulk, "gather": _gather, "latency": _latency}[mode]
    start = time.perf_counter()
    await send(producer, kind, n - (mode != "latency"))
    seconds = time.perf_counter() - start
    await _call(producer.close)
    return seconds


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    print(run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
