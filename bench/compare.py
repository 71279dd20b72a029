"""This project, its peers and the bare limit, one worker process each, on a Redis of their own.

hatch run bench:peers [--repeat N] [--n N] [PEER ...]

Repetitions go round all peers, so that a slow minute of the machine hits them all.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from bench import report
from bench.chart import draw
from bench.peers import Peer
from bench.servers import redis_server

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ["asynctasq", "bare", "dramatiq", "taskiq", "saq", "huey", "rq"]
LATENCIES = 300
DEADLINE_SECONDS = 180

COLUMNS = [
    report.Column("one", "dispatch, one at a time, tasks/s", 0, True),
    report.Column("bulk", "dispatch in bulk, tasks/s", 0, True),
    report.Column("gather", "500 concurrent dispatches, tasks/s", 0, True),
    report.Column("noop", "drain no-op, tasks/s", 0, True),
    report.Column("sleep", "drain 1 ms sleep, tasks/s", 0, True),
    report.Column("p50", "latency p50, ms", 2, False),
    report.Column("p99", "latency p99, ms", 2, False),
    report.Column("start", "worker start to first task, s", 2, False),
    report.Column("peak_mb", "peak RSS of the worker, MB", 0, False),
    report.Column("cpu_us", "worker CPU per no-op task, µs", 0, False),
    report.Column("commands", "Redis commands per no-op task", 2, False),
]


class Subject:
    """One peer with its virtual environment."""

    def __init__(self, name: str, redis_url: str, n: int) -> None:
        self.module = name
        self.peer: Peer = importlib.import_module(f"bench.peers.{name}").PEER
        self.n = n
        self._redis = redis.Redis.from_url(redis_url)
        self._folder = Path(tempfile.gettempdir()) / "asynctasq-bench" / name
        self._python = str(self._folder / "bin" / "python")
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "PYTHONPATH": str(PROJECT),
            "BENCH_PEER": name,
            "BENCH_REDIS_URL": redis_url,
        }

    def install(self) -> None:
        """Make the virtual environment, or bring it up to date."""
        subprocess.run([sys.executable, "-m", "venv", self._folder], check=True)
        wanted = [text.format(project=PROJECT) for text in self.peer.requirements]
        pip = [self._python, "-m", "pip", "-q", "--disable-pip-version-check"]
        forced = ["--force-reinstall", "--no-deps"]
        local = [text for text in wanted if text.startswith(str(PROJECT))]
        subprocess.run([*pip, "install", *wanted], check=True)
        if local:
            subprocess.run([*pip, "install", *forced, *local], check=True)

    def measure(self) -> dict[str, float]:
        """All measurements once."""
        found: dict[str, float] = {"one": self._send("one", self.n)}
        found |= self._drain()
        producer = (PROJECT / "bench" / "peers" / f"{self.module}.py").read_text()
        if "send_many" in producer:
            found["bulk"] = self._send("bulk", 4 * self.n)
        if self.peer.is_async:
            if self.peer.gathers:
                found["gather"] = self._send("gather", 4 * self.n)
            self._send("one", self.n, "sleep")
            found["sleep"] = self._drain()["noop"]
        return found | self._latency()

    def _send(self, mode: str, n: int, kind: str = "noop") -> float:
        self._redis.flushall()
        return n / self._produce(mode, kind, n)

    def _produce(self, mode: str, kind: str, n: int) -> float:
        command = [self._python, "-m", "bench.produce", self.module, mode, kind, str(n)]
        done = subprocess.run(
            command, env=self._environment, cwd=PROJECT, check=True, capture_output=True, text=True
        )
        return float(done.stdout.split()[-1])

    @contextlib.contextmanager
    def _worker(self, n: int) -> Iterator[Path]:
        """A worker; yields the file that its Nth task writes."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            out = Path(folder) / "out"
            process = subprocess.Popen(
                [self._python, *self.peer.worker],
                env={**self._environment, "BENCH_OUT": str(out), "BENCH_N": str(n)},
                cwd=PROJECT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                yield out
            finally:
                os.killpg(process.pid, 9)
                process.wait()

    def _drain(self) -> dict[str, float]:
        before = self._commands()
        spawned_ns = time.time_ns()
        with self._worker(self.n) as out:
            done = _awaited(out)
            time.sleep(0.3)  # the last acknowledgements
            commands = self._commands() - before
        return {
            "noop": (self.n - 1) * 1e9 / (done["last_ns"] - done["first_ns"]),
            "start": (done["first_ns"] - spawned_ns) / 1e9,
            "peak_mb": done["peak_mb"],
            "cpu_us": done["cpu_s"] * 1e6 / self.n,
            "commands": commands / self.n,
        }

    def _latency(self) -> dict[str, float]:
        self._redis.flushall()
        with self._worker(LATENCIES) as out:
            time.sleep(2)  # idle by then
            self._produce("latency", "latency", LATENCIES)
            values = sorted(v / 1e6 for v in _awaited(out)["latencies_ns"])
        return {"p50": statistics.median(values), "p99": values[int(len(values) * 0.99) - 1]}

    def _commands(self) -> int:
        return int(self._redis.info("stats")["total_commands_processed"])


def _awaited(out: Path) -> dict:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not out.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not finish")
        time.sleep(0.02)
    return json.loads(out.read_text())


def main() -> None:
    """Install, measure, print the table and draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", default=NAMES)
    parser.add_argument("--n", type=int, default=5000, help="tasks per measurement")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--chart", type=Path, help="folder for the chart, such as docs/images")
    args = parser.parse_args()
    with redis_server() as url:
        subjects = [Subject(name, url, args.n) for name in args.peers]
        for subject in subjects:
            subject.install()
        runs: dict[str, list[dict[str, float]]] = {s.peer.name: [] for s in subjects}
        for i in range(args.repeat):
            for subject in subjects:
                runs[subject.peer.name].append(subject.measure())
                print(f"{i + 1}/{args.repeat} {subject.peer.name}", file=sys.stderr, flush=True)
    print(report.table(COLUMNS, runs))
    print()
    for subject in subjects:
        peer = subject.peer
        print(
            f"- {peer.name}: {', '.join(peer.requirements[:1])}; {peer.settings}; {peer.delivery}"
        )
    print("\n" + report.circumstances(redis_tasks=args.n, repetitions=args.repeat))
    if args.chart:
        drained = {
            s.peer.name: statistics.median(r["noop"] for r in runs[s.peer.name])
            for s in subjects
            if s.peer.name != "bare loop"
        }
        draw(
            args.chart,
            "drain",
            "No-op tasks drained per second by one worker process",
            drained,
            "asynctasq",
        )


if __name__ == "__main__":
    main()
