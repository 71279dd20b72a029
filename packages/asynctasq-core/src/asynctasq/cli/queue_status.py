"""What the queues hold, and which workers serve them, at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import time
from typing import Any

from ..app import App
from ..brokers import Broker, KeyInUse, Listing, Policing, QueueStats, Remembering, WorkerInfo
from ..listing import told_running
from ..pausing import pauses_of
from ..policies.pauses import Pause
from ..scheduling import Schedule, schedules
from ..sending.listing import CallInfo, Reader, running, waiting_since
from ..services.backlog import Backlog, backlogs
from ..worker.not_yet_known import NotYetKnownTask, not_yet_known
from .application import add_row, how_far, moment, table

#: Maximum number of holders of a key that a line of the table names.
_HOLDERS = 3

#: Maximum number of running calls to show, and of characters of their arguments and notes.
_MOST_RUNNING, _ARGUMENTS = 15, 80

#: Maximum number of schedules to show.
_MOST_SCHEDULES = 10

#: Maximum number of lines whose next call is looked at, as each takes a question to the broker.
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Status:
    """The status at one moment.

    Attributes:
        progress: Running calls that have told how far they are.
        keys: The keys of policies in use, by queue; `None` if nobody asked.
        running: Some of the calls that run; `None` if nobody asked.
        schedules: Those whose next ticks come first; `None` if nobody asked.
        waiting_since: When the next call of the longest lines was dispatched, Unix time in seconds.
    """

    broker: str
    queues: list[QueueStats]
    workers: list[WorkerInfo]
    outboxes: list[Backlog]
    pauses: list[Pause]
    not_yet_known: list[NotYetKnownTask]
    progress: list[CallInfo]
    keys: Mapping[str, list[KeyInUse]] | None = None
    running: list[CallInfo] | None = None
    schedules: list[Schedule] | None = None
    waiting_since: Mapping[str, float] = field(default_factory=dict)

    def content(self) -> dict[str, object]:
        """The status in a form that JSON can hold."""
        shown: dict[str, object] = {
            "broker": self.broker,
            "queues": [asdict(q) for q in self.queues],
            "waiting_since": dict(self.waiting_since),
            "workers": [asdict(w) for w in self.workers],
            "outboxes": [_outbox(o) for o in self.outboxes],
            "pauses": [asdict(p) for p in self.pauses],
            "not_yet_known": [asdict(n) for n in self.not_yet_known],
            "progress": [_told(c) for c in self.progress],
        }
        if self.keys is not None:
            shown["keys"] = {queue: [asdict(k) for k in keys] for queue, keys in self.keys.items()}
        if self.running is not None:
            shown["running"] = [asdict(call) for call in self.running]
        if self.schedules is not None:
            shown["schedules"] = [_schedule(one) for one in self.schedules]
        return shown


async def look(
    app: App, broker: Broker, *, with_keys: bool = False, with_running: bool = False
) -> Status:
    """The status now.

    Args:
        with_running: With the calls that run and the schedules, as people watch them.
    """
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
        await _running(app, broker) if with_running else None,
        await _schedules(broker) if with_running else None,
        await _waiting_since(app, broker, queues),
    )


async def _schedules(broker: Broker) -> list[Schedule]:
    if not isinstance(broker, Remembering):
        return []
    found = [one for one in await schedules() if one.next is not None]
    return sorted(found, key=lambda one: one.next or one.last)[:_MOST_SCHEDULES]


def _schedule(one: Schedule) -> dict[str, object]:
    moments = {"last": one.last.isoformat(), "next": one.next and one.next.isoformat()}
    return {**asdict(one), **moments}


async def _waiting_since(
    app: App, broker: Broker, queues: Sequence[QueueStats]
) -> dict[str, float]:
    longest = sorted((q for q in queues if q.waiting), key=lambda q: -q.waiting)
    names = [queue.name for queue in longest[:_MOST_LINES]]
    return await waiting_since(broker, names, app.config.signing_key)


async def _running(app: App, broker: Broker) -> list[CallInfo]:
    if not isinstance(broker, Listing):
        return []
    reader = Reader(app.config.signing_key, app.config.show_arguments)
    return await running(broker, reader, _MOST_RUNNING)


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
        _queue_table(status, growth) if status.queues else "No queues yet.",
        _worker_table(status.workers) if status.workers else "No workers.",
    ]
    if status.running:
        shown.append(_running_table(status.running))
    if status.schedules:
        shown.append(_schedule_table(status.schedules))
    if status.pauses:
        shown.append(_pause_table(status.pauses))
    if status.not_yet_known:
        shown.append(_unknown_table(status.not_yet_known))
    if status.progress and status.running is None:  # which shows it, too
        shown.append(_progress_table(status.progress))
    if status.outboxes:
        shown.append(_outbox_table(status.outboxes))
    if status.keys is not None:
        shown.append(_key_table(status.keys) if status.keys else "No keys in use.")
    return shown


def _running_table(calls: list[CallInfo]) -> object:
    shown = table("Running", "queue", "task", "arguments", "attempt", "dispatched", "progress")
    for c in calls:
        since = "" if c.enqueued_at is None else f"{max(0.0, time() - c.enqueued_at):.0f} s ago"
        cells = (c.queue, c.task, c.arguments[:_ARGUMENTS], str(c.attempt), since)
        add_row(shown, *cells, "" if c.progress is None else how_far(c.progress))
    return shown


def _schedule_table(schedules: list[Schedule]) -> object:
    shown = table("Schedules", "name", "task", "queue", "next")
    for s in schedules:
        seconds = "" if s.next is None else f"in {max(0.0, s.next.timestamp() - time()):.0f} s"
        add_row(shown, s.name, s.task, s.queue, seconds)
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


def _told(call: CallInfo) -> dict[str, object]:
    told = call.progress and asdict(call.progress)
    return {"queue": call.queue, "id": call.id, "task": call.task, "progress": told}


def _progress_table(calls: list[CallInfo]) -> object:
    shown = table("Progress", "queue", "task", "id", "progress")
    for c in calls:
        if c.progress is not None:
            add_row(shown, c.queue, c.task, c.id, how_far(c.progress))
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


def _queue_table(status: Status, growth: Mapping[str, float] | None) -> object:
    more = ("next waits",) if growth is None else ("next waits", "waiting/s")
    shown = table("Queues", "queue", "waiting", "running", "delayed", "dead", *more)
    for q in status.queues:
        counts = [str(n) for n in (q.waiting, q.running, q.delayed, q.dead)]
        since = status.waiting_since.get(q.name)
        counts.append("" if since is None else f"{max(0.0, time() - since):.0f} s")
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
