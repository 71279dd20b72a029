"""`asynctasq watch`: the progress of a call or a batch until it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import click

from ..app import current
from ..errors import AsynctasqError
from ..sending.watching import UNWOKEN_SECONDS, WOKEN_SECONDS, told_progress, until_news
from .application import loaded, module_option, queue_option
from .log_lines import printable

_UNDER_WAY = ("waiting", "delayed", "running", "uncommitted")


@dataclass(frozen=True, slots=True)
class _Look:
    """The progress of a call or a batch; `state` is the call's, or that of a batch."""

    state: str
    task: str
    done: float
    total: float | None
    note: str
    error: str = ""
    queue: str = ""


@click.command("watch")
@click.argument("message_id", metavar="ID")
@module_option
@queue_option
def command(message_id: str, modules: tuple[str, ...], queue: str | None) -> None:
    """Show the progress of a call, or of a batch, until it ends.

    Exits with 1 if the call, or one of the batch, has failed for good or was cancelled.
    """
    loaded(modules)
    try:
        last = asyncio.run(_watch(message_id, queue))
    except KeyboardInterrupt:
        return
    if last is None:
        raise AsynctasqError(f"no queue holds {message_id}, and there is no record of its end")
    click.echo(f"{printable(last.task)} {printable(message_id)}: {last.state}")
    if last.error:
        raise AsynctasqError(last.error)
    if last.state == "cancelled":
        sys.exit(1)


async def _watch(message_id: str, queue: str | None) -> _Look | None:
    looks = _looks(message_id, queue)
    return await (_show(looks) if sys.stdout.isatty() else _print(looks))


async def _looks(message_id: str, queue: str | None) -> AsyncIterator[_Look]:
    from ..listing import find_call

    last: _Look | None = None
    known: bytes | None = None
    broker = current().open_broker()
    while True:
        if last is not None:
            known = await told_progress(broker, last.queue, message_id)
        if (call := await find_call(message_id, queue)) is None:
            break
        told = call.progress
        done, total, note = (told.done, told.total, told.note) if told else (0, None, "")
        last = _Look(call.state.value, call.task, done, total, note, call.error, call.queue)
        yield last
        if last.state not in _UNDER_WAY:
            return
        seconds = UNWOKEN_SECONDS if known is None else WOKEN_SECONDS
        await until_news(broker, last.queue, message_id, known, seconds)
    if last is not None:
        yield replace(last, state="ended")
        return
    async for look in _looks_at_batch(message_id, queue):
        yield look


async def _looks_at_batch(batch_id: str, queue: str | None) -> AsyncIterator[_Look]:
    from ..batching import Batch
    from ..listing import queue_names

    for name in [queue] if queue else await queue_names():
        look = None
        async for told in Batch.handle(batch_id, name).watch():
            state = "done" if told.done == told.total else "running"
            look = _Look(state, "batch", told.done, told.total, told.note, queue=name)
            yield look
        if look is not None:
            if look.state != "done":
                yield replace(look, state="failed", error=f"{look.note} of {look.total:g}")
            return


async def _print(looks: AsyncIterator[_Look]) -> _Look | None:
    """Print a line for each change."""
    last = None
    async for look in looks:
        if look != last:
            of = "" if look.total is None else f"/{look.total:g}"
            click.echo(f"{look.state} {look.done:g}{of} {printable(look.note)}".rstrip())
        last = look
    return last


async def _show(looks: AsyncIterator[_Look]) -> _Look | None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]} {task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    last = None
    with Progress(*columns) as bar:
        shown = bar.add_task("", total=None, count="", note="")
        async for look in looks:
            of = "" if look.total is None else f"/{look.total:g}"
            bar.update(
                shown,
                description=f"{printable(look.task)} {look.state}",
                completed=look.done,
                total=look.total,
                count=f"{look.done:g}{of}",
                note=printable(look.note),
            )
            last = look
    return last
