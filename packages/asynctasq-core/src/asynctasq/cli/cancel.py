"""`asynctasq cancel`: take calls out of their queues, or end them while they run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from ..errors import AsynctasqError
from .application import loaded, module_option

if TYPE_CHECKING:
    from ..app import App


@click.command("cancel")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--task", metavar="NAME", help="All calls of this task, or of tasks such as shop.*")
@click.option("-q", "--queue", metavar="QUEUE", help="Only of this queue; without IDs, all of it.")
@click.option(
    "--state",
    type=click.Choice(["running", "waiting", "delayed"]),
    help="With --task or --queue: only those.",
)
@module_option
def command(
    ids: tuple[str, ...],
    task: str | None,
    queue: str | None,
    state: Any,
    modules: tuple[str, ...],
) -> None:
    """Cancel calls: what waits is removed, what runs is ended by its worker."""
    if (task or state) if ids else not (task or queue):
        raise click.UsageError("name calls by their ids, or by --task, --queue or both")
    if not ids:
        from ..listing import cancel_calls

        loaded(modules)
        count = asyncio.run(cancel_calls(queue=queue, task=task, state=state))
        click.echo(f"cancelled {count}")
        return
    app = loaded(modules)
    missing = asyncio.run(_cancel(app, ids, queue))
    click.echo(f"cancelled {len(ids) - len(missing)}")
    if missing:
        raise AsynctasqError(f"neither waiting nor running: {', '.join(missing)}")


async def _cancel(app: App, ids: tuple[str, ...], queue: str | None) -> list[str]:
    """Cancel these; returns those that are in no queue."""
    from ..sending.ending import RECORD_SECONDS, end
    from ..wire.results import encode_cancelled

    broker, missing = app.open_broker(), []
    queues = [q.name for q in await broker.stats() if queue in (None, q.name)]
    for message_id in ids:
        record = encode_cancelled(app.config.signing_key, message_id)
        for name in queues:
            if await end(broker, name, message_id, record, RECORD_SECONDS):
                break
        else:
            missing.append(message_id)
    return missing
