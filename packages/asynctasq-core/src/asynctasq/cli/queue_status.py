"""What the queues hold and who works on them, at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..app import App
from ..brokers import Broker, KeyInUse, Policing, QueueStats, WorkerInfo
from ..listing import CallInfo, told_running
from ..pausing import pauses_of
from ..policies.pauses import Pause
from ..services.backlog import Backlog, backlogs
from ..worker.not_yet_known import NotYetKnownTask, not_yet_known
from .application import add_row, moment, table

#: Maximum number of calls holding a key that a line of the table names.
_HOLDERS = 3


@dataclass(frozen=True, slots=True)
class Status:
    """The status at one moment.

    Attributes:
        progress: Running calls that have told how far they are.
        keys: The keys of policies in use, by queue; `None` if nobody asked.
    """

    broker: str
    queues: list[QueueStats]
    workers: list[WorkerInfo]
    outboxes: list[Backlog]
    pauses: list[Pause]
    not_yet_known: list[NotYetKnownTask]
    progress: list[CallInfo]
    keys: Mapping[str, list[KeyInUse]] | None = None

    def content(self) -> dict[str, object]:
        """The status as JSON takes it."""
        shown: dict[str, object] = {
            "broker": self.broker,
            "queues": [asdict(q) for q in self.queues],
            "workers": [asdict(w) for w in self.workers],
            "outboxes": [_outbox(o) for o in self.outboxes],
            "pauses": [asdict(p) for p in self.pauses],
            "not_yet_known": [asdict(n) for n in self.not_yet_known],
            "progress": [_progress(c) for c in self.progress],
        }
        if self.keys is not None:
            shown["keys"] = {queue: [asdict(k) for k in keys] for queue, keys in self.keys.items()}
        return shown


async def look(app: App, broker: Broker, *, with_keys: bool = False) -> Status:
    """The status now."""
    queues, workers = await broker.stats(), await broker.workers()
    names = [queue.name for queue in queues]
    return Status(
        broker.describe(),
        queues,
        workers,
        await backlogs(app.config, app.outbox),
        await pauses_of(broker),
        await not_yet_known(broker, names),
        await told_running([queue.name for queue in queues if queue.running]),
        await _keys(broker, names) if with_keys else None,
    )


async def _keys(broker: Broker, queues: Sequence[str]) -> dict[str, list[KeyInUse]]:
    if not isinstance(broker, Policing):
        return {}
    found = {queue: await broker.keys_in_use(queue) for queue in queues}
    return {queue: keys for queue, keys in found.items() if keys}


def tables(status: Status, growth: Mapping[str, float] | None = None) -> list[Any]:
    """The status for people.

    Args:
        growth: How many messages per second each queue's line grows by, if known.
    """
    shown: list[Any] = [
        _queue_table(status.queues, growth) if status.queues else "No queues yet.",
        _worker_table(status.workers) if status.workers else "No workers.",
    ]
    if status.pauses:
        shown.append(_pause_table(status.pauses))
    if status.not_yet_known:
        shown.append(_unknown_table(status.not_yet_known))
    if status.progress:
        shown.append(_progress_table(status.progress))
    if status.outboxes:
        shown.append(_outbox_table(status.outboxes))
    if status.keys is not None:
        shown.append(_key_table(status.keys) if status.keys else "No keys in use.")
    return shown


def _pause_table(pauses: list[Pause]) -> object:
    shown = table("Paused", "queue", "what", "since", "by")
    for p in pauses:
        add_row(shown, p.queue, p.what, moment(p.since), p.by)
    return shown


def _unknown_table(tasks: list[NotYetKnownTask]) -> object:
    shown = table("Not yet known", "queue", "task", "put off last", "error")
    for t in tasks:
        add_row(shown, t.queue, t.task, moment(t.seen_at), t.error)
    return shown


def _progress(call: CallInfo) -> dict[str, object]:
    told = call.progress and asdict(call.progress)
    return {"queue": call.queue, "id": call.id, "task": call.task, "progress": told}


def _progress_table(calls: list[CallInfo]) -> object:
    shown = table("Progress", "queue", "task", "id", "done", "note")
    for c in calls:
        if (told := c.progress) is not None:
            of = "" if told.total is None else f" of {told.total:g}"
            add_row(shown, c.queue, c.task, c.id, f"{told.done:g}{of}", told.note)
    return shown


def _key_table(keys: Mapping[str, list[KeyInUse]]) -> object:
    shown = table("Keys", "queue", "policy", "key", "held by", "waiting", "free at")
    for queue, its in keys.items():
        for k in its:
            holders = ", ".join(k.holders[:_HOLDERS])
            if len(k.holders) > _HOLDERS:
                holders += f" and {len(k.holders) - _HOLDERS} more"
            free_at = "" if k.free_at is None else moment(k.free_at)
            add_row(shown, queue, k.kind, k.key, holders, str(k.waiting), free_at)
    return shown


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
