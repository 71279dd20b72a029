"""`asynctasq cancel`: remove calls from their queues, or end them while they run."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..errors import AsynctasqError
from .application import loaded, module_option


@click.command("cancel")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--task",
    metavar="NAME",
    help="All calls of this task, or of tasks matching a pattern such as shop.*",
)
@click.option(
    "-q", "--queue", metavar="QUEUE", help="Only calls in this queue; without IDs, all of them."
)
@click.option(
    "--state",
    type=click.Choice(["running", "waiting", "delayed"]),
    help="With --task or --queue: only calls in this state.",
)
@module_option
def command(
    ids: tuple[str, ...],
    task: str | None,
    queue: str | None,
    state: Any,
    modules: tuple[str, ...],
) -> None:
    """Cancel calls: waiting ones are removed, running ones are ended by their workers."""
    if (task or state) if ids else not (task or queue):
        raise click.UsageError("name calls by their ids, or by --task, --queue or both")
    if not ids:
        from ..listing import cancel_calls

        loaded(modules)
        count = asyncio.run(cancel_calls(queue=queue, task=task, state=state))
        click.echo(f"cancelled {count}")
        return
    loaded(modules)
    missing = asyncio.run(_cancel(ids, queue))
    click.echo(f"cancelled {len(ids) - len(missing)}")
    if missing:
        raise AsynctasqError(f"neither waiting nor running: {', '.join(missing)}")


async def _cancel(ids: tuple[str, ...], queue: str | None) -> list[str]:
    """Cancel these; return those that are in no queue."""
    from ..listing import cancel_call

    return [message_id for message_id in ids if not await cancel_call(message_id, queue)]
