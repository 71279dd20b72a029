"""The task queues that are compared, one module each.

A module is read twice: by the harness for `PEER`, and inside the peer's own virtual environment,
where `INSIDE` holds and the part that imports the library runs. There it defines `Producer` with
`open`, `close`, `send(kind, *args)` and, where the library sends in bulk, `send_many(kind, n)`;
coroutines if `PEER.is_async`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

INSIDE = "BENCH_PEER" in os.environ
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")
POSTGRES_URL = os.environ.get("BENCH_POSTGRES_URL", "")


@dataclass(frozen=True, slots=True)
class Peer:
    """How one library is installed and its worker started.

    Attributes:
        requirements: `{project}` stands for this repository.
        worker: Arguments behind the interpreter; `{concurrency}` and `{processes}` are filled in.
        settings: What differs from the library's defaults.
        delivery: What becomes of a task whose worker dies.
        concurrency: How many tasks run at once unless a benchmark says otherwise.
        scale: How many times the tasks of others keep its worker busy for as long as theirs.
        acknowledges: Whether a task is acknowledged after it ran.
        is_async: Whether tasks are coroutines on one event loop.
        has_bulk: Whether it sends many in one call.
        gathers: Whether hundreds of sends may be under way at once.
        environment: Variables for its processes.
    """

    name: str
    requirements: tuple[str, ...]
    worker: tuple[str, ...]
    settings: str
    delivery: str
    concurrency: int = 100
    scale: int = 1
    acknowledges: bool = True
    is_async: bool = False
    has_bulk: bool = False
    gathers: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
