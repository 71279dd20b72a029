"""An application with a queue of its own and real worker processes, started by the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgpack
from asynctasq.brokers import Broker, DeadLetter
from asynctasq.brokers.opening import installed_drivers, open_broker
from asynctasq.config import Config

R = TypeVar("R")

PROGRAMS = Path(__file__).parent / "programs"

#: Time for a machine under load to do what takes an idle one far less.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Note:
    """A line that a task wrote: what it did, and in which process, at which Unix time."""

    what: str
    number: int
    pid: int
    at: float


@dataclass
class Deployment:
    """A working directory with a queue; its tasks are those of `programs/fault_tasks.py`.

    Attributes:
        settings: Environment variables that say where the queue is.
    """

    path: Path
    settings: dict[str, str]
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What every program of the deployment gets."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
        paths = f"{self.path}{os.pathsep}{PROGRAMS}"
        return {**inherited, "ASYNCTASQ_PLUGINS": "", "PYTHONPATH": paths, **self.settings}

    def start_worker(self, *options: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start `asynctasq worker fault_tasks`; what it writes goes to the file `log`."""
        command = (sys.executable, "-m", "asynctasq", "worker", "fault_tasks", *options)
        with (self.path / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.path, env=self.environment | settings, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def run_worker(self, *options: str, **settings: str) -> int:
        """Run a worker to its end; its exit code."""
        return self.start_worker(*options, **settings).wait(PATIENCE_SECONDS)

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `asynctasq` with these arguments to its end."""
        return self._finished("-m", "asynctasq", *arguments, **settings)

    def python(self, code: str, **settings: str) -> str:
        """Run code that sees the tasks; its output."""
        done = self._finished("-c", f"{_IMPORTS}{code}", **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dispatch(self, *calls: str, **settings: str) -> list[str]:
        """Send calls, written as Python, from a process of their own; the messages' ids."""
        return self.python(_dispatching(calls), **settings).split()

    def _finished(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def notes(self, what: str | None = None) -> list[Note]:
        """What tasks noted, in order; lines cut short by a kill are left out."""
        file = self.path / "notes"
        lines = file.read_text().splitlines() if file.exists() else []
        parts = [line.split() for line in lines if line.endswith(" whole")]
        notes = [Note(kind, int(n), int(pid), float(at)) for kind, n, pid, at, _ in parts]
        return [note for note in notes if what in (None, note.what)]

    def times(self, what: str) -> Counter[int]:
        """How often each number was noted."""
        return Counter(note.number for note in self.notes(what))

    def log(self) -> str:
        """What the workers wrote."""
        file = self.path / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def ask(self, question: Callable[[Broker], Coroutine[Any, Any, R]]) -> R:
        """Ask the broker."""

        async def asked() -> R:
            config = Config.load({}, installed_drivers().sections, environ=self.environment)
            broker = open_broker(config)
            try:
                return await question(broker)
            finally:
                await broker.close()

        return asyncio.run(asked())

    def counts(self, queue: str = "default") -> dict[str, int]:
        """How many messages of the queue are in which state; states without any left out."""
        for stats in self.ask(lambda broker: broker.stats()):
            if stats.name == queue:
                states = ("waiting", "running", "delayed", "dead")
                return {s: n for s in states if (n := getattr(stats, s))}
        return {}

    def dead_letters(self, queue: str = "default") -> list[DeadLetter]:
        """All of the queue, newest first."""
        return self.ask(lambda broker: broker.dead_letters(queue, limit=10_000))

    def worker_count(self) -> int:
        """How many workers give signs of life."""
        return len(self.ask(lambda broker: broker.workers()))

    def end(self) -> None:
        """Kill what is still running."""
        for process in self._started:
            process.kill()
            process.wait()


_IMPORTS = "import asyncio\nfrom fault_tasks import *\n"


def _dispatching(calls: Sequence[str]) -> str:
    return (
        "import asynctasq\n"
        f"handles = asyncio.run(asynctasq.dispatch_many([{', '.join(calls)}]))\n"
        "print(*(h.id for h in handles))"
    )


def reason_of(letter: DeadLetter) -> dict[str, Any]:
    """What is kept with a dead letter."""
    reason: dict[str, Any] = msgpack.unpackb(letter.info)
    return reason


def eventually(holds: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until it holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


class Forks:
    """Worker processes forked from one that has imported everything, so that they start at once.

    A test can then afford hundreds. What is forked runs the command line as any other process.

    Args:
        modules: Those of `programs` to import before, too.
        settings: Environment variables for their import.
    """

    def __init__(self, *modules: str, **settings: str) -> None:
        self._program = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "forked_workers.py"), *modules],
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def start(self, deployment: Deployment, *arguments: str, **settings: str) -> int:
        """Run `asynctasq` with these arguments in the deployment; its process id."""
        return self._fork(deployment, settings, {"arguments": arguments})

    def run(self, deployment: Deployment, code: str, **settings: str) -> int:
        """Run code in the deployment; its process id."""
        return self._fork(deployment, settings, {"code": code})

    def dispatch(self, deployment: Deployment, *calls: str) -> int:
        """Send calls from a fork; its process id."""
        return self.run(deployment, _IMPORTS + _dispatching(calls))

    def run_with_tasks(self, deployment: Deployment, code: str) -> int:
        """Run code that sees the tasks in the deployment; its process id."""
        return self.run(deployment, _IMPORTS + code)

    def _fork(self, deployment: Deployment, settings: dict[str, str], what: dict[str, Any]) -> int:
        environment = deployment.environment | settings
        order = {"path": str(deployment.path), "environment": environment, **what}
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(json.dumps(order), file=self._program.stdin, flush=True)
        return int(self._program.stdout.readline())

    def end(self) -> None:
        """End the program; what it forked must have ended or been killed."""
        self._program.kill()
        self._program.communicate()


@contextmanager
def forks(*modules: str, **settings: str) -> Iterator[Forks]:
    """`Forks` for the length of a block."""
    program = Forks(*modules, **settings)
    try:
        yield program
    finally:
        program.end()
