"""The sending process of a peer, inside its virtual environment.

    python -m bench.produce PEER MODE KIND N

Modes: `one` at a time, in `bulk`, `gather` (500 concurrent sends), `fill` (the fastest of these
that there is), `latency` (10 ms apart) and, for peers that are not async, from eight `threads`.
Prints the seconds that sending took; connecting and the first send are not counted.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CHUNK = 500
THREADS = 8
INTERVAL_SECONDS = 0.01
ARGUMENTS = {"large": ("x" * 100_000,)}


class Sender:
    """Sends calls of one task through a peer's coroutines."""

    def __init__(self, producer: Any, kind: str) -> None:
        self._producer, self._kind = producer, kind
        self._arguments = ARGUMENTS.get(kind, ())
        self._has_bulk = hasattr(producer, "send_many")

    async def one(self, n: int) -> None:
        for _ in range(n):
            await self._producer.send(self._kind, *self._arguments)

    async def bulk(self, n: int) -> None:
        for i in range(0, n, CHUNK):
            await self._producer.send_many(self._kind, min(CHUNK, n - i))

    async def gather(self, n: int) -> None:
        for i in range(0, n, CHUNK):
            size = min(CHUNK, n - i)
            await asyncio.gather(*(self._producer.send(self._kind) for _ in range(size)))

    async def fill(self, n: int) -> None:
        await (self.bulk(n) if self._has_bulk else self.gather(n))

    async def latency(self, n: int) -> None:
        start = time.perf_counter()
        for i in range(n):
            await asyncio.sleep(max(0, start + i * INTERVAL_SECONDS - time.perf_counter()))
            await self._producer.send(self._kind, time.time_ns())


class BlockingSender:
    """The same through a peer's functions."""

    def __init__(self, producer: Any, kind: str) -> None:
        self._producer, self._kind = producer, kind
        self._arguments = ARGUMENTS.get(kind, ())
        self._has_bulk = hasattr(producer, "send_many")

    def one(self, n: int) -> None:
        for _ in range(n):
            self._producer.send(self._kind, *self._arguments)

    def bulk(self, n: int) -> None:
        for i in range(0, n, CHUNK):
            self._producer.send_many(self._kind, min(CHUNK, n - i))

    def fill(self, n: int) -> None:
        (self.bulk if self._has_bulk else self.one)(n)

    def threads(self, n: int) -> None:
        shares = [n // THREADS + (i < n % THREADS) for i in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self.one, shares):
                pass

    def latency(self, n: int) -> None:
        start = time.perf_counter()
        for i in range(n):
            time.sleep(max(0, start + i * INTERVAL_SECONDS - time.perf_counter()))
            self._producer.send(self._kind, time.time_ns())


async def send(producer: Any, mode: str, kind: str, n: int) -> float:
    """Send `n` tasks; returns the seconds that all but the first took."""
    sender = Sender(producer, kind)
    await producer.open()
    await (sender.latency if mode == "latency" else sender.one)(1)
    start = time.perf_counter()
    await getattr(sender, mode)(n - 1)
    seconds = time.perf_counter() - start
    await producer.close()
    return seconds


def send_blocking(producer: Any, mode: str, kind: str, n: int) -> float:
    """As `send`."""
    sender = BlockingSender(producer, kind)
    producer.open()
    (sender.latency if mode == "latency" else sender.one)(1)
    start = time.perf_counter()
    getattr(sender, mode)(n - 1)
    seconds = time.perf_counter() - start
    producer.close()
    return seconds


def main() -> None:
    """Send, and print how long it took."""
    peer, mode, kind, n = sys.argv[1:]
    module = importlib.import_module(f"bench.peers.{peer}")
    if not module.PEER.is_async:
        print(send_blocking(module.Producer(), mode, kind, int(n)))
        return
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    print(run(send(module.Producer(), mode, kind, int(n))))


if __name__ == "__main__":
    main()
