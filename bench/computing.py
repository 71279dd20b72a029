"""Tasks that compute for 1 ms, as `async def` and as `def` in threads, at several concurrencies.

hatch run bench:computing [--repeat N] [--n N] [--concurrency N,N...] [PEER ...]

One process can run 1,000 of them a second at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench import subjects
from bench.report import Column
from bench.subjects import Subject

CONCURRENCIES = (10, 20, 50)
KINDS = {"compute": "async def", "compute_in_thread": "def"}

COLUMNS = [
    Column(f"{kind} {concurrency}", f"`{title}`, concurrency {concurrency}, tasks/s", 0, True)
    for kind, title in KINDS.items()
    for concurrency in CONCURRENCIES
]


def measure(concurrencies: Sequence[int], subject: Subject, n: int) -> dict[str, float]:
    """Each kind that the peer has, at each concurrency."""
    kinds = [kind for kind in KINDS if subject.peer.is_async or kind == "compute_in_thread"]
    return {
        f"{kind} {concurrency}": subject.drain(kind, n, concurrency)["rate"]
        for kind in kinds
        for concurrency in concurrencies
    }


def main() -> None:
    """Measure and print the table."""
    names = ["asynctasq", "taskiq", "dramatiq"]
    parser = subjects.parser(__doc__, names, n=2000, repeat=3)
    parser.add_argument("--concurrency", type=subjects.numbers, default=CONCURRENCIES)
    args = parser.parse_args()
    subjects.compare(args, COLUMNS, partial(measure, args.concurrency))


if __name__ == "__main__":
    main()
