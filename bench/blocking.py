"""Dispatching from synchronous code: one at a time, and from eight threads.

hatch run bench:blocking [--repeat N] [--n N] [PEER ...]
"""

from __future__ import annotations

from bench import subjects
from bench.report import Column
from bench.subjects import Subject

NAMES = ["asynctasq_sync", "huey", "dramatiq"]

COLUMNS = [
    Column("one", "one at a time, tasks/s", 0, True),
    Column("threads", "from 8 threads, tasks/s", 0, True),
]


def measure(subject: Subject, n: int) -> dict[str, float]:
    """Both once."""
    return {mode: subject.send(mode, "noop", n) for mode in ("one", "threads")}


def main() -> None:
    """Measure and print the table."""
    args = subjects.parser(__doc__, NAMES, n=20_000, repeat=5).parse_args()
    subjects.compare(args, COLUMNS, measure)


if __name__ == "__main__":
    main()
