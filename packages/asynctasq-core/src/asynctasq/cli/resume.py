"""`asynctasq resume`: end what `asynctasq pause` began."""

from __future__ import annotations

import asyncio

import click

from ..errors import AsynctasqError
from .application import loaded
from .pause import check, meant, refused, shown


@click.command("resume")
@meant
def command(
    queue: str | None, task: str | None, where: tuple[str, ...], modules: tuple[str, ...]
) -> None:
    """End a pause, given with the options it was begun with; `asynctasq status` lists pauses."""
    from .. import pausing

    arguments = check(queue, task, where)
    loaded(modules)
    with refused():
        was_paused = asyncio.run(pausing.resume(queue=queue, task=task, where=arguments))
    if not was_paused:
        raise AsynctasqError(f"no pause of {shown(queue, task, where)}")
    click.echo(f"resumed {shown(queue, task, where)}")
