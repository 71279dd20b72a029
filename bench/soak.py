"""Continuous dispatch while workers are killed and restarted at random, and the broker fails.

hatch run bench:soak [--minutes 5] [--broker redis|sqlite] [--seed N]

Prints an account of every task and exits with 1 if anything was lost, or ran twice without having
been in flight when something was killed, stopped, frozen or cut off. The Redis server is a private
one with an append-only file (`appendfsync always`), killed and restarted in between; the queue file
of SQLite is locked by another process instead.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psutil
import redis

from bench.soak_account import Account, Disturbance, account

LEASE_SECONDS = 2.0
GRACE_SECONDS = 1.0
#: On a busy machine a killed process may go on for a moment.
SIGNAL_SECONDS = 0.5
#: How long the workers may take to finish what is left at the end.
LAST_SECONDS = 60.0

ROOT = Path(__file__).parents[1]
WORKER = ("-m", "asynctasq", "worker", "bench.soak_tasks")
OPTIONS = ("--lease", str(LEASE_SECONDS), "--grace", str(GRACE_SECONDS), "--concurrency", "10")


class Site:
    """Where the soak takes place: a folder with the ledgers, and processes that write them."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
        own = {"SOAK_FOLDER": str(folder), "ASYNCTASQ_PLUGINS": "", "PYTHONPATH": str(ROOT)}
        self.folder = folder
        self.environment = inherited | own | settings
        self.disturbances: list[Disturbance] = []
        for ledger in ("sent", "runs"):
            (folder / ledger).touch()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run Python with these arguments; what it writes goes to the file `log`."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def disturbed(self, kind: str, pid: int | None, began: float, ended: float) -> None:
        """Write down what was done, for the account."""
        self.disturbances.append(Disturbance(kind, pid, began, ended))
        with (self.folder / "disturbances").open("a") as file:
            file.write(f"{kind} {pid} {began:.6f} {ended:.6f}\n")


class Worker:
    """A place for a worker process: whoever dies there is followed by another."""

    def __init__(self, site: Site, *options: str) -> None:
        self._site = site
        self._command = (*WORKER, *OPTIONS, *options)
        self.process = site.start(*self._command)

    def family(self) -> list[psutil.Process]:
        """The process and its worker processes."""
        try:
            parent = psutil.Process(self.process.pid)
            children = parent.children()
        except psutil.NoSuchProcess:
            return []
        return [parent, *filter(_is_worker, children)]

    def kill_one(self) -> None:
        """SIGKILL a process of the family."""
        if family := self.family():
            self._send(signal.SIGKILL, random.choice(family), family)

    def stop(self) -> None:
        """SIGTERM: what does not end in the grace time is given back."""
        if family := self.family():
            self._send(signal.SIGTERM, family[0], family)

    def freeze(self) -> None:
        """SIGSTOP, mostly for longer than a lease: the outcome of what ran comes too late."""
        if family := self.family():
            victim, began = family[-1], time.time()
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.suspend()
                time.sleep(LEASE_SECONDS * random.uniform(0.5, 2))
                victim.resume()
            self._site.disturbed("freeze", victim.pid, began, time.time() + 1)

    def _send(
        self, number: signal.Signals, victim: psutil.Process, family: list[psutil.Process]
    ) -> None:
        now = time.time()
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(number)
        # Workers stop when their parent dies, so that whatever happens to it happens to them.
        for process in family if victim is family[0] else [victim]:
            if number == signal.SIGKILL and process is victim:
                self._site.disturbed("kill", process.pid, now, time.time() + SIGNAL_SECONDS)
            else:
                self._site.disturbed("stop", process.pid, now, now + GRACE_SECONDS + 5)

    def end(self) -> None:
        """Kill all of the family."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def replace(self) -> None:
        """Start another if it has ended."""
        if self.process.poll() is not None:
            self.process = self._site.start(*self._command)


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is no child for `process=True` tasks."""
    try:
        return "worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


class Fault(Protocol):
    """Makes the broker fail for a moment; when it returns, the broker is well again."""

    def __call__(self) -> None: ...


@contextlib.contextmanager
def redis_broker(folder: Path) -> Iterator[tuple[dict[str, str], Fault]]:
    """A private server with an append-only file, that is killed or shut down and restarted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as client:
                client.ping()
                return
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def restart() -> None:
        started[-1].send_signal(random.choice((signal.SIGKILL, signal.SIGTERM)))
        started[-1].wait()
        time.sleep(random.uniform(0, 3))
        start()

    start()
    try:
        yield {"ASYNCTASQ_REDIS_URL": f"redis://127.0.0.1:{port}/0"}, restart
    finally:
        started[-1].kill()
        started[-1].wait()


@contextlib.contextmanager
def sqlite_broker(folder: Path) -> Iterator[tuple[dict[str, str], Fault]]:
    """A queue file, that another process locks for longer than the busy timeout."""
    path = folder / "queue.db"

    def lock() -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            time.sleep(random.uniform(0.5, 4))
            intruder.execute("ROLLBACK")

    settings = {"ASYNCTASQ_DRIVER": "sqlite", "ASYNCTASQ_SQLITE_PATH": str(path)}
    yield settings | {"ASYNCTASQ_SQLITE_BUSY_TIMEOUT": "1"}, lock


def wait_for_the_first_run(folder: Path) -> None:
    """Until sender and workers are at work, however busy the machine is."""
    deadline = time.monotonic() + LAST_SECONDS
    while not (folder / "runs").stat().st_size:
        assert time.monotonic() < deadline, f"nothing ran, see {folder / 'log'}"
        time.sleep(0.05)


def disturb(site: Site, workers: list[Worker], fail: Fault, until: float) -> dict[str, int]:
    """Kill, stop, freeze and cut off at random; how often each was done."""
    done = {"kill": 0, "stop": 0, "freeze": 0, "broker": 0}
    next_failure = time.monotonic() + 10
    while time.monotonic() < until:
        time.sleep(random.uniform(0.2, 2))
        for worker in workers:
            worker.replace()
        if time.monotonic() > next_failure:
            began = time.time()
            fail()
            site.disturbed("broker", None, began, time.time() + LEASE_SECONDS)
            next_failure = time.monotonic() + random.uniform(15, 40)
            done["broker"] += 1
            continue
        kind = random.choices(("kill", "stop", "freeze"), (8, 1, 1))[0]
        worker = random.choice(workers)
        action: dict[str, Callable[[], None]] = {
            "kill": worker.kill_one,
            "stop": worker.stop,
            "freeze": worker.freeze,
        }
        action[kind]()
        done[kind] += 1
    return done


def finish(site: Site, workers: list[Worker]) -> Account:
    """Let the workers run what is left; make the account."""
    for worker in workers:
        worker.replace()
    deadline = time.monotonic() + LAST_SECONDS
    made = account(site.folder, site.disturbances)
    while made.lost and time.monotonic() < deadline:
        time.sleep(1)
        made = account(site.folder, site.disturbances)
    time.sleep(LEASE_SECONDS + 1)  # whatever ran a second time for no reason would by now
    return account(site.folder, site.disturbances)


def soak(folder: Path, broker: str, minutes: float) -> bool:
    """Run the soak and print its account; whether every promise was kept."""
    brokers = {"redis": redis_broker, "sqlite": sqlite_broker}
    with brokers[broker](folder) as (settings, fail):
        site = Site(folder, settings)
        workers = [Worker(site), Worker(site), Worker(site, "--processes", "2")]
        sender = site.start("-m", "bench.soak_tasks")
        try:
            wait_for_the_first_run(folder)
            done = disturb(site, workers, fail, time.monotonic() + 60 * minutes)
            has_died = sender.poll() is not None
            sender.kill()
            sender.wait()
            made = finish(site, workers)
        finally:
            sender.kill()
            sender.wait()
            for worker in workers:
                worker.end()
    print(f"{broker}, {minutes:g} minutes, lease {LEASE_SECONDS:g} s\n")
    print("\n".join(made.lines()))
    for kind, count in done.items():
        print(f"| {'broker failures' if kind == 'broker' else f'workers: {kind}'} | {count} |")
    for line in made.unexplained[:10]:
        print(line)
    if has_died:
        print("the sender died, see the log")
    return made.is_good and not has_died


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--broker", choices=("redis", "sqlite"), default="redis")
    parser.add_argument("--seed", type=int, default=None, help="of the disturbances")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="asynctasq-soak-"))
    kept = soak(folder, arguments.broker, arguments.minutes)
    print(f"\nledgers and log: {folder}")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
