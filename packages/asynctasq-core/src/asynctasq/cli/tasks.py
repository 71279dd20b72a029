"""`asynctasq tasks`: list waiting, running and delayed calls, and show one by its id."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from functools import partial
from shlex import quote
from time import time
from typing import TYPE_CHECKING, Any

import click

from ..errors import AsynctasqError
from .application import (
    add_row,
    arguments_option,
    how_far,
    json_option,
    loaded,
    module_option,
    moment,
    queue_option,
    show,
    show_fields,
    shows_one,
    table,
)
from .log_lines import printable

if TYPE_CHECKING:
    from ..sending.listing import CallInfo, CallPage


@click.group("tasks")
def command() -> None:
    """Waiting, running and delayed calls; `asynctasq dead` shows those that failed for good."""


@command.command("list")
@module_option
@click.option(
    "--state",
    type=click.Choice(["running", "waiting", "delayed"]),
    help="Only calls in this state; by default all, in this order.",
)
@queue_option
@click.option(
    "--task",
    metavar="NAME",
    help="Only calls of this task, or of tasks matching a pattern such as shop.*",
)
@click.option(
    "--arguments",
    metavar="TEXT",
    help="Only calls with this in their arguments as shown, such as Tenant#5.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option(
    "--after", metavar="PLACE", help="Where to begin, as printed at the end of the previous page."
)
@arguments_option
@json_option
def list_command(
    modules: tuple[str, ...],
    state: Any,
    queue: str | None,
    task: str | None,
    arguments: str | None,
    limit: int,
    after: str | None,
    hides_arguments: bool,
    as_json: bool,
) -> None:
    """List calls, running ones first."""
    from ..listing import calls

    loaded(modules)

    async def read() -> CallPage:
        """Read pages until there are enough calls; a page of a search may hold few."""
        ask = partial(calls, state, queue=queue, task=task, arguments=arguments)
        page = await ask(limit=limit, after=after)
        while len(page.calls) < limit and page.after is not None:
            more = await ask(limit=limit - len(page.calls), after=page.after)
            page = replace(more, calls=page.calls + more.calls)
        return page

    try:
        page = asyncio.run(read())
    except ValueError as e:
        raise click.BadParameter(str(e), param_hint="--after") from None
    if hides_arguments:
        page = replace(page, calls=[replace(call, arguments="") for call in page.calls])
    if as_json:
        click.echo(json.dumps(asdict(page), indent=2))
    elif page.calls:
        _show(page)
    else:
        click.echo("No calls.")


_COLUMNS = ("id", "queue", "state", "task", "arguments", "attempt", "dispatched", "")


def _show(page: CallPage) -> None:
    shown = table("Calls", *_COLUMNS)
    for call in page.calls:
        add_row(shown, *_cells(call))
    show(shown)
    if page.after is not None:
        click.echo(f"There are more: --after {quote(printable(page.after))}")


def _cells(call: CallInfo) -> tuple[str, ...]:
    return (
        call.id,
        call.queue,
        call.state,
        call.task,
        call.arguments[:200],
        str(call.attempt),
        "" if call.enqueued_at is None else moment(call.enqueued_at),
        _when_or_where(call),
    )


def _when_or_where(call: CallInfo) -> str:
    if call.due is not None:
        return f"in {call.due - time():.0f} s"
    return "paused" if call.state == "delayed" else call.worker


@command.command("show")
@shows_one
def show_command(
    message_id: str,
    modules: tuple[str, ...],
    queue: str | None,
    hides_arguments: bool,
    as_json: bool,
) -> None:
    """Show everything known about one call, dead or alive."""
    from ..listing import find_call

    loaded(modules)
    call = asyncio.run(find_call(message_id, queue))
    if call is None:
        raise AsynctasqError(f"no queue holds {message_id}, and there is no record of its end")
    if hides_arguments:
        call = replace(call, arguments="")
    if as_json:
        click.echo(json.dumps(asdict(call), indent=2))
        return
    fields = {name: value for name, value in asdict(call).items() if value not in (None, "", ())}
    traceback = fields.pop("traceback", "")
    for name in ("enqueued_at", "due", "died_at"):
        if name in fields:
            fields[name] = moment(fields[name])
    if call.progress is not None:
        fields["progress"] = how_far(call.progress)
    if call.parent is not None:
        fields["parent"] = f"{fields.pop('parent_task', '')} {' '.join(call.parent)}".strip()
    fields.pop("children", None)
    if call.children:
        fields["children"] = ", ".join(f"{one.task} {one.queue} {one.id}" for one in call.children)
    show_fields(fields, traceback, width=18)
