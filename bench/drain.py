"""Draining no-op tasks, all adapters installed, against the bare loop.

hatch run bench:drain [--repeat N] [--n N] [PEER ...]
"""

from __future__ import annotations

from bench import subjects
from bench.report import Column
from bench.subjects import Subject

COLUMNS = [
    Column("rate", "drain no-op, tasks/s", 0, True),
    Column("cpu_us", "worker CPU per task, µs", 1, False),
]


def measure(subject: Subject, n: int) -> dict[str, float]:
    """One drain."""
    return subject.drain("noop", n)


def main() -> None:
    """Measure and print the table."""
    args = subjects.parser(__doc__, ["asynctasq", "bare"], n=60_000, repeat=5).parse_args()
    subjects.compare(args, COLUMNS, measure)


if __name__ == "__main__":
    main()
