"""The page `/metrics`: the numbers of this process or of all, and the counts of the queues."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from asynctasq import QueueStats
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from .folder import FOLDER
from .labels import MOST, OTHER

_STATES = ("waiting", "running", "delayed", "dead")


def page(queues: Sequence[QueueStats] | None) -> tuple[str, bytes]:
    """The page's content type and content."""
    content = generate_latest(_measured()) + generate_latest(_looked_up(queues))
    return CONTENT_TYPE_LATEST, content


def _measured() -> CollectorRegistry:
    if FOLDER not in os.environ:
        return REGISTRY
    folder = Path(os.environ[FOLDER])
    _forget_dead_processes(folder)
    registry = CollectorRegistry()
    registry.register(_Processes(folder))
    return registry


class _Processes(Collector):
    """The sums of what the worker processes have counted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        # A process that was killed just after it made a file leaves it empty, which would break
        # the page for as long as the parent lives.
        files = [str(file) for file in self._folder.glob("*.db") if _has_content(file)]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return found


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # another request has removed it
        return False


def _forget_dead_processes(folder: Path) -> None:
    """Remove the gauges of worker processes that have been replaced; their counters stay."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _is_alive(pid):
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _looked_up(queues: Sequence[QueueStats] | None) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Queues(queues))
    return registry


class _Queues(Collector):
    """What the queues hold, as the broker counts it for this page."""

    def __init__(self, queues: Sequence[QueueStats] | None) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        is_up = GaugeMetricFamily("asynctasq_broker_up", "Whether the broker could be asked.")
        is_up.add_metric([], 0.0 if self._queues is None else 1.0)
        yield is_up
        counts = GaugeMetricFamily(
            "asynctasq_queue_messages", "Messages of a queue by state.", labels=["queue", "state"]
        )
        for (queue, state), count in _counts(self._queues or ()).items():
            counts.add_metric([queue, state], count)
        yield counts


def _counts(queues: Sequence[QueueStats]) -> dict[tuple[str, str], int]:
    """The counts of the largest queues, and of all others together."""
    by_size = sorted(queues, key=lambda q: -sum(getattr(q, state) for state in _STATES))
    found: dict[tuple[str, str], int] = {}
    for place, queue in enumerate(by_size):
        name = queue.name if place < MOST else OTHER
        for state in _STATES:
            found[name, state] = found.get((name, state), 0) + getattr(queue, state)
    return found
