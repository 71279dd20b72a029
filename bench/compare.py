"""This project, its peers and the bare limit, one worker process each, on a Redis of their own.

hatch run bench:peers [--repeat N] [--n N] [--chart FOLDER] [PEER ...]
"""

from __future__ import annotations

import statistics
from pathlib import Path

from bench import subjects
from bench.chart import draw
from bench.report import Column
from bench.subjects import Subject

NAMES = ["asynctasq", "bare", "dramatiq", "taskiq", "saq", "huey", "rq"]
BARE = "bare loop"
LATENCIES = 300

COLUMNS = [
    Column("one", "dispatch, one at a time, tasks/s", 0, True),
    Column("bulk", "dispatch in bulk, tasks/s", 0, True),
    Column("gather", "500 concurrent dispatches, tasks/s", 0, True),
    Column("rate", "drain no-op, tasks/s", 0, True),
    Column("sleep", "drain 1 ms sleep, tasks/s", 0, True),
    Column("p50", "latency p50, ms", 2, False),
    Column("p99", "latency p99, ms", 2, False),
    Column("start", "worker start to first task, s", 2, False),
    Column("peak_mb", "peak RSS of the worker, MB", 0, False),
    Column("cpu_us", "worker CPU per no-op task, µs", 0, False),
    Column("commands", "Redis commands per no-op task", 2, False),
]


def measure(subject: Subject, n: int) -> dict[str, float]:
    """All measurements once; `n` grows with the peer's speed where that is far from the others'."""
    peer = subject.peer
    found = {"one": subject.send("one", "noop", n)}
    if peer.has_bulk:
        found["bulk"] = subject.send("bulk", "noop", peer.scale * n)
    if peer.is_async and peer.gathers:
        found["gather"] = subject.send("gather", "noop", 4 * n)
    if peer.is_async:
        found["sleep"] = subject.drain("sleep", peer.scale * n)["rate"]
    latencies = subject.latencies(min(LATENCIES, n))
    found["p50"] = statistics.median(latencies)
    found["p99"] = latencies[int(len(latencies) * 0.99) - 1]
    return found | subject.drain("noop", peer.scale * n)


def main() -> None:
    """Measure, print the table and draw the chart."""
    parser = subjects.parser(__doc__, NAMES, n=5000, repeat=5)
    parser.add_argument("--chart", type=Path, help="folder for the chart, such as docs/images")
    args = parser.parse_args()
    runs = subjects.compare(args, COLUMNS, measure)
    if args.chart:
        drained = {
            name: statistics.median(run["rate"] for run in some)
            for name, some in runs.items()
            if name != BARE
        }
        title = "No-op tasks drained per second by one worker process"
        draw(args.chart, "drain", title, drained, "asynctasq")


if __name__ == "__main__":
    main()
