"""Draining no-op tasks while somebody listens, against nobody: events, Prometheus, OpenTelemetry.

hatch run bench:events [--repeat N] [--n N] [PEER ...]
"""

from __future__ import annotations

from bench import subjects
from bench.drain import COLUMNS, measure

PEERS = ["asynctasq", "asynctasq_listening", "asynctasq_prometheus", "asynctasq_opentelemetry"]


def main() -> None:
    """Measure and print the table."""
    args = subjects.parser(__doc__, PEERS, n=60_000, repeat=5).parse_args()
    subjects.compare(args, COLUMNS, measure)


if __name__ == "__main__":
    main()
