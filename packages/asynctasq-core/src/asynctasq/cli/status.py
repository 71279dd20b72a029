"""`asynctasq status`: what stands in the queues and who works on them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..services.backlog import backlogs
from .application import (
    add_row,
    json_option,
    loaded,
    module_option,
    moment,
    show,
    table,
    with_broker,
)

if TYPE_CHECKING:
    from ..brokers import Broker, QueueStats, WorkerInfo
    from ..services.backlog import Backlog


@click.command("status")
@module_option
@json_option
def command(modules: tuple[str, ...], as_json: bool) -> None:
    """Show the broker, its queues and its workers."""

    app = loaded(modules)

    async def look(broker: Broker) -> tuple[str, list[QueueStats], list[WorkerInfo], list[Backlog]]:
        queues, workers = await broker.stats(), await broker.workers()
        return broker.describe(), queues, workers, await backlogs(app)

    address, queues, workers, outboxes = with_broker(app, look)
    if as_json:
        content = {
            "broker": address,
            "queues": [asdict(q) for q in queues],
            "workers": [asdict(w) for w in workers],
            "outboxes": [_outbox(o) for o in outboxes],
        }
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"broker: {address}\n")
    show(_queue_table(queues) if queues else "No queues yet.")
    show(_worker_table(workers) if workers else "No workers.")
    if outboxes:
        show(_outbox_table(outboxes))


def _queue_table(queues: list[QueueStats]) -> object:
    shown = table("Queues", "queue", "waiting", "running", "delayed", "dead")
    for q in queues:
        add_row(shown, q.name, *map(str, (q.waiting, q.running, q.delayed, q.dead)))
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
