"""Workers killed at random, Redis in between, under continuous dispatch: every id accounted for.

hatch run bench:soak [--minutes N] [--broker redis|sqlite] [--workers N]

Each task notes its start and its end in a file of its worker's. At the end each call that was
dispatched must have ended; a call that started more than once must have been in flight when a
worker was killed. Exits with 1 if anything is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asynctasq

LEASE_SECONDS = 3
RATE_PER_SECOND = 200


@asynctasq.task(max_attempts=10, retry_delay=0.1)
async def work(n: int) -> None:
    _note(f"start {n}")
    await asyncio.sleep(random.uniform(0, 0.1))
    if random.random() < 0.02:
        raise RuntimeError("one of those days")
    _note(f"end {n}")


def _note(text: str) -> None:
    path = Path(os.environ["SOAK_FOLDER"]) / f"{os.getpid()}.log"
    with path.open("a") as log:  # one write, so that a kill leaves a whole line or none
        log.write(text + "\n")


class Redis:
    """A server with an append-only file, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        listen = ("redis-server", "--port", str(self.port), "--bind", "127.0.0.1")
        self._command = (*listen, "--dir", str(folder), "--appendonly", "yes", "--save", "")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self._command, "--appendfsync", "always"], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Fleet:
    """Worker processes, killed and replaced at random."""

    def __init__(self, count: int) -> None:
        self.kills = 0
        self._workers = [self._spawn() for _ in range(count)]

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "asynctasq", "worker", "bench.soak"]
        options = ["--lease", str(LEASE_SECONDS), "--log-level", "error"]
        return subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)

    def kill_one(self) -> None:
        i = random.randrange(len(self._workers))
        self._workers[i].kill()
        self._workers[i].wait()
        self.kills += 1
        self._workers[i] = self._spawn()

    def stop(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()


async def _dispatch_until(deadline: float, sent: list[int], unsure: list[int]) -> None:
    n = 0
    while time.monotonic() < deadline:
        n += 1
        try:
            await work(n).dispatch()
            sent.append(n)
        except asynctasq.BrokerUnavailable:
            unsure.append(n)
        await asyncio.sleep(1 / RATE_PER_SECOND)


async def _disturb_until(deadline: float, fleet: Fleet, redis: Redis | None) -> int:
    restarts = 0
    while time.monotonic() < deadline:
        await asyncio.sleep(random.uniform(0.5, 2))
        fleet.kill_one()
        if redis is not None and random.random() < 0.1:
            redis.kill()
            await asyncio.sleep(random.uniform(0, 2))
            redis.start()
            restarts += 1
    return restarts


def _noted(folder: Path) -> tuple[collections.Counter[int], collections.Counter[int]]:
    starts: collections.Counter[int] = collections.Counter()
    ends: collections.Counter[int] = collections.Counter()
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            what, n = line.split()
            (starts if what == "start" else ends)[int(n)] += 1
    return starts, ends


async def _until_empty(deadline: float) -> None:
    from asynctasq.app import current

    while time.monotonic() < deadline:
        stats = await current().open_broker().stats()
        if not any(s.waiting + s.running + s.delayed for s in stats):
            return
        await asyncio.sleep(0.5)


async def soak(minutes: float, workers: int, folder: Path, redis: Redis | None) -> int:
    """Run it and print the account; the exit code."""
    sent: list[int] = []
    unsure: list[int] = []
    fleet = Fleet(workers)
    deadline = time.monotonic() + minutes * 60
    _, restarts = await asyncio.gather(
        _dispatch_until(deadline, sent, unsure), _disturb_until(deadline, fleet, redis)
    )
    await _until_empty(time.monotonic() + 120)
    fleet.stop()
    starts, ends = _noted(folder)
    lost = [n for n in sent if n not in ends]
    twice = sum(count - 1 for count in ends.values())
    print(f"{minutes:g} minutes, {workers} workers, lease {LEASE_SECONDS} s")
    print(f"workers killed: {fleet.kills}, Redis killed and started: {restarts}")
    print(f"dispatched: {len(sent):,}; refused or unsure: {len(unsure)}")
    ended, of_unsure = (sum(n in ends for n in some) for some in (sent, unsure))
    print(f"ended: {ended:,}; of the unsure {of_unsure}")
    print(f"runs started: {sum(starts.values()):,}; ended again (in flight at a kill): {twice}")
    print(f"lost: {len(lost)} {lost[:20] or ''}")
    return 1 if lost else 0


def main() -> None:
    """Set up a broker of its own and soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--broker", choices=["redis", "sqlite"], default="redis")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        os.environ |= {"SOAK_FOLDER": name, "ASYNCTASQ_DRIVER": args.broker}
        redis = Redis(folder) if args.broker == "redis" else None
        if redis is not None:
            os.environ["ASYNCTASQ_REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
        os.environ["ASYNCTASQ_SQLITE_PATH"] = str(folder / "queue.db")
        try:
            # Under its own name, as the workers import it.
            from bench import soak as module

            raise SystemExit(asyncio.run(module.soak(args.minutes, args.workers, folder, redis)))
        finally:
            if redis is not None:
                redis.kill()


if __name__ == "__main__":
    main()
