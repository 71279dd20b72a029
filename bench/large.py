"""Dispatching calls with a text of 100 kB, one at a time.

hatch run bench:large [--repeat N] [--n N] [PEER ...]

The server holds what was sent: 100 kB for each of the tasks.
"""

from __future__ import annotations

from bench import subjects
from bench.report import Column
from bench.subjects import Subject

COLUMNS = [Column("large", "dispatch of 100 kB, tasks/s", 0, True)]


def measure(subject: Subject, n: int) -> dict[str, float]:
    """Send, and leave the server empty."""
    rate = subject.send("one", "large", n)
    subject.redis.flushall()
    return {"large": rate}


def main() -> None:
    """Measure and print the table."""
    args = subjects.parser(__doc__, ["asynctasq", "bare", "huey"], n=5000, repeat=5).parse_args()
    subjects.compare(args, COLUMNS, measure)


if __name__ == "__main__":
    main()
