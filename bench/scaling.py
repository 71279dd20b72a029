"""One, two and four worker processes on one Redis, no-op tasks, against as many bare loops.

hatch run bench:scaling [--repeat N] [--n N] [--processes N,N...] [PEER ...]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench import subjects
from bench.report import Column
from bench.subjects import Subject

COLUMNS = [
    Column("1", "one process, tasks/s", 0, True),
    Column("2", "two processes, tasks/s", 0, True),
    Column("4", "four processes, tasks/s", 0, True),
    Column("gain 2", "two against one", 2, True),
    Column("gain 4", "four against one", 2, True),
]


def measure(processes: Sequence[int], subject: Subject, n: int) -> dict[str, float]:
    """Each number of processes once."""
    rates = {p: subject.drain_together("shared", n, p) for p in processes}
    gains = {f"gain {p}": rate / rates[1] for p, rate in rates.items() if p > 1}
    return {str(p): rate for p, rate in rates.items()} | gains


def main() -> None:
    """Measure and print the table."""
    parser = subjects.parser(__doc__, ["asynctasq", "bare"], n=100_000, repeat=3)
    parser.add_argument("--processes", type=subjects.numbers, default=(1, 2, 4))
    args = parser.parse_args()
    subjects.compare(args, COLUMNS, partial(measure, args.processes))


if __name__ == "__main__":
    main()
