"""No-op tasks in two child processes: `process=True`, and huey's processes.

hatch run bench:children [--repeat N] [--n N] [PEER ...]
"""

from __future__ import annotations

from bench import subjects
from bench.report import Column
from bench.subjects import Subject

CHILDREN = 2

COLUMNS = [Column("rate", "no-op in 2 child processes, tasks/s", 0, True)]


def measure(subject: Subject, n: int) -> dict[str, float]:
    """One drain; a worker has as many children as tasks that run at once."""
    return {"rate": subject.drain_together("child", n, CHILDREN, concurrency=CHILDREN)}


def main() -> None:
    """Measure and print the table."""
    names = ["asynctasq", "huey_processes"]
    args = subjects.parser(__doc__, names, n=10_000, repeat=5).parse_args()
    subjects.compare(args, COLUMNS, measure)


if __name__ == "__main__":
    main()
