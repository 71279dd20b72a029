"""What is compared: this project, its peers and the bare loop, each in a virtual environment.

`compare` is a whole benchmark but for its measurements: command line, server, installation, rounds
and table. Repetitions go round all subjects, so that a slow minute of the machine hits them all.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis

from bench import report, tally
from bench.peers import Peer
from bench.running import PROJECT, output, worker
from bench.servers import redis_server

Runs = dict[str, list[dict[str, float]]]


class Subject:
    """One peer with its interpreter.

    Args:
        name: Of its module in `bench.peers`.
        here: Whether it runs in this interpreter rather than in an environment of its own.
    """

    def __init__(self, name: str, redis_url: str, *, here: bool) -> None:
        self.module = name
        self.peer: Peer = importlib.import_module(f"bench.peers.{name}").PEER
        self.redis = redis.Redis.from_url(redis_url)
        self._folder = None if here else _environments() / name.partition("_")[0]
        self._python = str(self._folder / "bin" / "python") if self._folder else sys.executable
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ASYNCTASQ_"))},
            "PYTHONPATH": str(PROJECT),
            "BENCH_PEER": name,
            "BENCH_REDIS_URL": redis_url,
            **self.peer.environment,
        }

    def install(self) -> bool:
        """Bring its environment up to date; without one, say whether the library is here."""
        if self._folder is None:
            return all(map(_is_here, self.peer.requirements))
        wanted = [text.format(project=PROJECT) for text in self.peer.requirements]
        editable = [arg for text in wanted for arg in _installed_from(text)]
        output([sys.executable, "-m", "venv", str(self._folder)])
        pip = [self._python, "-m", "pip", "-q", "--disable-pip-version-check"]
        output([*pip, "install", *editable])
        return True

    def empty(self) -> None:
        """Empty the server."""
        self.redis.flushall()

    def send(self, mode: str, kind: str, n: int) -> float:
        """Tasks per second of sending `n` tasks to an empty server; they stay there."""
        self.empty()
        return (n - 1) / self._produce(mode, kind, n)

    def drain(self, kind: str, n: int, concurrency: int = 0) -> dict[str, float]:
        """Fill the queue with `n` tasks and start a worker."""
        self.send("fill", kind, n)
        return self.drain_filled(n, concurrency)

    def drain_filled(self, n: int, concurrency: int = 0) -> dict[str, float]:
        """Start a worker on a queue of `n` tasks; its speed and what it needed."""
        before, spawned_ns = self._commands(), time.time_ns()
        with self._worker(n, concurrency) as (process, out):
            process.wait_until(out.exists)
            done = json.loads(out.read_text())
            time.sleep(0.3)  # the last acknowledgements
            commands = self._commands() - before
        return {
            "rate": (n - 1) * 1e9 / (done["last_ns"] - done["first_ns"]),
            "start": (done["first_ns"] - spawned_ns) / 1e9,
            "peak_mb": done["peak_mb"],
            "cpu_us": done["cpu_s"] * 1e6 / n,
            "commands": commands / n,
        }

    def drain_together(self, kind: str, n: int, processes: int, **options: int) -> float:
        """Tasks per second of so many processes, from when all of them work.

        Args:
            options: What the worker's command line is told besides; `processes` by default.
        """
        self.send("fill", kind, n)
        with tempfile.TemporaryDirectory(prefix="bench-tally-") as name:
            folder = Path(name)
            shared = {"BENCH_TALLY": name, "BENCH_PROCESSES": str(processes)}
            command = self._command(**(options or {"processes": processes}))
            with worker(command, self._environment | shared) as process:
                process.wait_until(lambda: tally.read(folder).count >= n)
                return tally.read(folder).rate

    def latencies(self, n: int) -> list[float]:
        """Milliseconds from sending a task to its start in an idle worker, sorted."""
        self.empty()
        with self._worker(n + 2) as (process, out):
            self._produce("latency", "latency", 1)
            process.wait_until(out.with_name(out.name + ".ready").exists)
            self._produce("latency", "latency", n + 1)
            process.wait_until(out.exists)
            return sorted(ns / 1e6 for ns in json.loads(out.read_text())["latencies_ns"])

    def _produce(self, mode: str, kind: str, n: int) -> float:
        command = [self._python, "-m", "bench.produce", self.module, mode, kind, str(n)]
        return float(output(command, self._environment).split()[-1])

    @contextlib.contextmanager
    def _worker(self, n: int, concurrency: int = 0) -> Iterator[tuple[Any, Path]]:
        """A worker, and the file that its Nth task writes."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            out = Path(folder) / "out"
            environment = {**self._environment, "BENCH_OUT": str(out), "BENCH_N": str(n)}
            with worker(self._command(concurrency=concurrency), environment) as process:
                yield process, out

    def _command(self, concurrency: int = 0, processes: int = 1) -> list[str]:
        values = {"concurrency": concurrency or self.peer.concurrency, "processes": processes}
        return [self._python, *(text.format(**values) for text in self.peer.worker)]

    def _commands(self) -> int:
        return int(self.redis.info("stats")["total_commands_processed"])


def _environments() -> Path:
    """Where the virtual environments of this checkout are; another has others."""
    checkout = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"asynctasq-bench-{checkout}"


def _installed_from(requirement: str) -> tuple[str, ...]:
    return ("-e", requirement) if requirement.startswith(str(PROJECT)) else (requirement,)


def _is_here(requirement: str) -> bool:
    name = re.split(r"[\[=<>~ ]", requirement.rpartition("/")[2])[0]
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def numbers(text: str) -> tuple[int, ...]:
    """What an option with several numbers says."""
    return tuple(map(int, text.split(",")))


def parser(doc: str | None, names: Sequence[str], n: int, repeat: int) -> argparse.ArgumentParser:
    """The command line of a benchmark that compares."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("peers", nargs="*", default=names)
    made.add_argument("--n", type=int, default=n, help=f"tasks of each measurement; {n}")
    made.add_argument("--repeat", type=int, default=repeat, help=str(repeat))
    made.add_argument("--here", action="store_true", help="those that this environment holds")
    return made


def compare(
    args: argparse.Namespace,
    columns: Sequence[report.Column],
    measure: Callable[[Subject, int], dict[str, float]],
) -> Runs:
    """Measure all subjects and print the table; what was measured."""
    with redis_server() as url:
        subjects = [Subject(name, url, here=args.here) for name in args.peers]
        subjects = [subject for subject in subjects if subject.install()]
        runs: Runs = {subject.peer.name: [] for subject in subjects}
        for i in range(args.repeat):
            for subject in subjects:
                runs[subject.peer.name].append(measure(subject, args.n))
                print(f"{i + 1}/{args.repeat} {subject.peer.name}", file=sys.stderr, flush=True)
    print(report.table(columns, runs) + "\n")
    for peer in (subject.peer for subject in subjects):
        library = peer.requirements[0].rpartition("/")[2]
        at_once = f"{peer.concurrency} at once unless the table says otherwise"
        print(f"- {peer.name}: {library}, {at_once}; {peer.settings}; {peer.delivery}")
    print("\n" + report.circumstances(tasks=args.n, repetitions=args.repeat))
    return runs
