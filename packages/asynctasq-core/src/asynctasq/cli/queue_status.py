"""What stands in the queues and who works on them, as it was at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..app import App
from ..brokers import Broker, QueueStats, WorkerInfo
from ..services.backlog import Backlog, backlogs
from .application import add_row, moment, table


@dataclass(frozen=True, slots=True)
class Status:
    """What was there at one moment."""

    broker: str
    queues: list[QueueStats]
    workers: list[WorkerInfo]
    outboxes: list[Backlog]

    def content(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "broker": self.broker,
            "queues": [asdict(q) for q in self.queues],
            "workers": [asdict(w) for w in self.workers],
            "outboxes": [_outbox(o) for o in self.outboxes],
        }


async def look(app: App, broker: Broker) -> Status:
    """What is there now."""
    queues, workers = await broker.stats(), await broker.workers()
    return Status(broker.describe(), queues, workers, await backlogs(app.config, app.outbox))


def tables(status: Status, growth: Mapping[str, float] | None = None) -> list[Any]:
    """The status for people.

    Args:
        growth: By how many messages a second the line of each queue grows, if that is known.
    """
    shown: list[Any] = [
        _queue_table(status.queues, growth) if status.queues else "No queues yet.",
        _worker_table(status.workers) if status.workers else "No workers.",
    ]
    return [*shown, _outbox_table(status.outboxes)] if status.outboxes else shown


def _queue_table(queues: list[QueueStats], growth: Mapping[str, float] | None) -> object:
    more = () if growth is None else ("waiting/s",)
    shown = table("Queues", "queue", "waiting", "running", "delayed", "dead", *more)
    for q in queues:
        counts = [str(n) for n in (q.waiting, q.running, q.delayed, q.dead)]
        if growth is not None:
            counts.append(f"{growth[q.name]:+.1f}" if q.name in growth else "")
        add_row(shown, q.name, *counts)
    return shown


def _worker_table(workers: list[WorkerInfo]) -> object:
    shown = table("Workers", "host", "pid", "queues", "running", "concurrency", "since", "")
    for w in workers:
        add_row(
            shown,
            w.host,
            str(w.pid),
            ", ".join(w.queues),
            str(w.running),
            str(w.concurrency),
            moment(w.started_at),
            "event loop blocked" if w.is_blocked else "",
        )
    return shown


def _outbox(backlog: Backlog) -> dict[str, object]:
    return {
        "database": backlog.database,
        "waiting": backlog.waiting,
        "oldest_seconds": backlog.oldest_seconds,
        "missing": list(backlog.missing),
    }


def _outbox_table(outboxes: list[Backlog]) -> object:
    shown = table("Outboxes", "database", "waiting", "oldest", "")
    for o in outboxes:
        age = "" if o.oldest_seconds is None else f"{o.oldest_seconds:.0f} s"
        problem = f"cannot be read: {o.reason}" if o.missing else ""
        add_row(shown, o.database, "" if o.waiting is None else str(o.waiting), age, problem)
    return shown
