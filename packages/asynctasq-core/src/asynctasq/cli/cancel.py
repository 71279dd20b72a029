"""`asynctasq cancel`: take calls out of their queues, or end them while they run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from ..errors import AsynctasqError
from .application import loaded, module_option

if TYPE_CHECKING:
    from ..app import App


@click.command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("-q", "--queue", metavar="QUEUE", help="Look in this queue only.")
@module_option
def command(ids: tuple[str, ...], queue: str | None, modules: tuple[str, ...]) -> None:
    """Cancel calls by id: what waits is removed, what runs is ended by its worker."""
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
