"""Queues in PostgreSQL: this project, its peers and a bare loop, one worker process each.

hatch run bench:postgres [--repeat N] [--n N] [--waiting N] [--held-seconds S] [PEER ...]

Each measurement has a database of its own. `--waiting 1000000` and `--held-seconds 180` are the
sizes of a busy year; smaller ones show the same shape.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Iterator

import psycopg

from bench import report, subjects
from bench.report import Column
from bench.servers import postgres_database
from bench.subjects import Runs, Subject

NAMES = ["asynctasq_postgres", "bare_postgres", "procrastinate", "pgqueuer"]
LATENCIES = 200
IDLE_SECONDS = 10.0
SETTLING_SECONDS = 11.0
"""What follows the first task; idle sessions tell what they have done up to 10 s late."""
HELD_RATE = 800

COLUMNS = [
    Column("one", "dispatch, one at a time, tasks/s", 0, True),
    Column("bulk", "dispatch in bulk, tasks/s", 0, True),
    Column("rate", "drain no-op, tasks/s", 0, True),
    Column("many", "the same with many waiting, tasks/s", 0, True),
    Column("held", "the same after a transaction was held open, tasks/s", 0, True),
    Column("p50", "latency of an idle worker p50, ms", 2, False),
    Column("p99", "latency of an idle worker p99, ms", 2, False),
    Column("idle", "transactions per second of an idle worker", 1, False),
    Column("cpu_us", "worker CPU per no-op task, µs", 0, False),
    Column("commands", "transactions per no-op task", 3, False),
]


class PostgresSubject(Subject):
    """One peer with a database of its own."""

    def __init__(self, name: str, url: str, *, here: bool) -> None:
        super().__init__(name, "redis://127.0.0.1:1/0", here=here)
        self._url = url
        self._environment["BENCH_POSTGRES_URL"] = url

    def empty(self) -> None:
        """Make the tables where there are none; the database is nobody else's."""
        self._produce("one", "noop", 1)
        with self._worker(1) as (process, out):
            process.wait_until(out.exists)

    def idle(self) -> float:
        """Transactions per second of a worker that has nothing to do."""
        self.empty()
        with self._worker(1) as (process, out):
            self._produce("latency", "latency", 1)
            process.wait_until(out.with_name(out.name + ".ready").exists)
            time.sleep(SETTLING_SECONDS)
            before, start = self._commands(), time.monotonic()
            time.sleep(IDLE_SECONDS)
            return (self._commands() - before - 1) / (time.monotonic() - start)

    def held(self, n: int, seconds: float) -> float:
        """Drained per second at the end of a transaction that was open meanwhile."""
        self.empty()
        with psycopg.connect(self._url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("SELECT count(*) FROM pg_class")
            busy = max(2, int(seconds * HELD_RATE))
            sender = threading.Thread(target=self._produce, args=("fill", "noop", busy))
            with self._worker(busy) as (process, out):
                sender.start()
                process.wait_until(out.exists)
                sender.join()
            return self.drain("noop", n)["rate"]

    def _commands(self) -> int:
        with psycopg.connect(self._url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database"
                " WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])


@contextlib.contextmanager
def subject(name: str, here: bool) -> Iterator[PostgresSubject]:
    """A peer on a database of its own."""
    with postgres_database() as url:
        yield PostgresSubject(name, url, here=here)


def measure(name: str, n: int, waiting: int, held_seconds: float, here: bool) -> dict[str, float]:
    """All measurements once."""
    found: dict[str, float] = {}
    with subject(name, here) as one:
        found["one"] = one.send("one", "noop", n)
    with subject(name, here) as one:
        found["bulk"] = one.send("bulk", "noop", one.peer.scale * n)
        found |= one.drain_filled(one.peer.scale * n)
    with subject(name, here) as one:
        one.send("fill", "noop", max(waiting, n))
        found["many"] = one.drain_filled(min(one.peer.scale * n, waiting))["rate"]
    with subject(name, here) as one:
        found["held"] = one.held(one.peer.scale * n, held_seconds)
    with subject(name, here) as one:
        latencies = one.latencies(min(LATENCIES, n))
        found["p50"] = statistics.median(latencies)
        found["p99"] = latencies[int(len(latencies) * 0.99) - 1]
    with subject(name, here) as one:
        found["idle"] = one.idle()
    return found


def main() -> None:
    """Measure and print the table."""
    parser = subjects.parser(__doc__, NAMES, n=2000, repeat=3)
    parser.add_argument("--waiting", type=int, default=100_000, help="for `many waiting`; 100000")
    parser.add_argument("--held-seconds", type=float, default=10.0, help="10")
    args = parser.parse_args()
    peers = {}
    for name in args.peers:
        one = PostgresSubject(name, "", here=args.here)
        if one.install():
            peers[name] = one.peer
    runs: Runs = {peer.name: [] for peer in peers.values()}
    for i in range(args.repeat):
        for name, peer in peers.items():
            found = measure(name, args.n, args.waiting, args.held_seconds, args.here)
            runs[peer.name].append(found)
            print(f"{i + 1}/{args.repeat} {peer.name}", file=sys.stderr, flush=True)
    print(report.table(COLUMNS, runs) + "\n")
    for peer in peers.values():
        print(f"- {peer.name}: {peer.concurrency} at once; {peer.settings}; {peer.delivery}")
    sizes = {"tasks": args.n, "waiting": args.waiting, "held_seconds": args.held_seconds}
    print("\n" + report.circumstances(repetitions=args.repeat, **sizes))


if __name__ == "__main__":
    main()
