"""`asynctasq dead`: look at calls that failed for good, run them again, or delete them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from ..errors import AsynctasqError
from .ages import age
from .application import (
    add_row,
    arguments_option,
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
from .progress import bar

if TYPE_CHECKING:
    from ..deadletters import DeadCall, Filter

_NONE = "no dead letter {}; `asynctasq dead list` shows them"

#: `list` prints a table only up to this many rows.
_MOST_IN_TABLE = 200


def _filtered(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select dead letters."""
    for option in (
        click.option(
            "--older-than",
            metavar="AGE",
            callback=age,
            help="Only those that died at least this long ago: 7d, 12h.",
        ),
        click.option("--reason", metavar="TEXT", help="Only those whose reason contains this."),
        click.option("--error", metavar="TEXT", help="Only those whose error contains this."),
        click.option(
            "--arguments",
            metavar="TEXT",
            help="Only those whose arguments, as shown, contain this, such as Tenant#5.",
        ),
        click.option(
            "--task",
            metavar="NAME",
            help="Only those of this task, or of tasks matching a pattern such as shop.*",
        ),
    ):
        function = option(function)
    return function


def _where(**chosen: Any) -> Filter | None:
    from ..deadletters import Filter

    if all(value is None for value in chosen.values()):
        return None
    return Filter(**chosen)


@click.group("dead")
def command() -> None:
    """Dead letters: messages that failed for good."""


@command.command("list")
@module_option
@queue_option
@_filtered
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, help="How many to skip.")
@arguments_option
@json_option
def list_command(
    modules: tuple[str, ...],
    queue: str | None,
    limit: int,
    offset: int,
    hides_arguments: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """List dead letters, newest first."""
    from .. import deadletters

    where = _where(**chosen)
    loaded(modules)
    pages = deadletters.pages(queue, limit=limit, offset=offset, where=where)
    shown = _without_arguments(pages) if hides_arguments else pages
    asyncio.run(_print_json(shown) if as_json else _print(shown, limit))


async def _without_arguments(
    pages: AsyncIterator[list[DeadCall]],
) -> AsyncIterator[list[DeadCall]]:
    async for page in pages:
        yield [_without(letter) for letter in page]


def _without(letter: DeadCall) -> DeadCall:
    return replace(letter, arguments="", references=())


async def _print_json(pages: AsyncIterator[list[DeadCall]]) -> None:
    """Print one array, piece by piece."""
    before = "["
    async for page in pages:
        for letter in page:
            click.echo(f"{before}\n{indent(json.dumps(asdict(letter), indent=2), '  ')}", nl=False)
            before = ","
    click.echo("[]" if before == "[" else "\n]")


async def _print(pages: AsyncIterator[list[DeadCall]], limit: int) -> None:
    """Print a table, or plain lines if there are many: laying out a row is slower than reading."""
    shown: list[DeadCall] = []
    count = 0
    async for page in pages:
        count += len(page)
        if limit <= _MOST_IN_TABLE:
            shown += page
            continue
        for letter in page:
            click.echo("  ".join(map(printable, _cells(letter))))
    if shown:
        show(_table(shown))
    elif not count:
        click.echo("No dead letters.")


_COLUMNS = ("id", "queue", "task", "arguments", "attempts", "died", "reason", "error")


def _table(letters: list[DeadCall]) -> object:
    shown = table("Dead letters", *_COLUMNS)
    for letter in letters:
        add_row(shown, *_cells(letter))
    return shown


def _cells(letter: DeadCall) -> tuple[str, ...]:
    return (
        letter.id,
        letter.queue,
        letter.task,
        letter.arguments[:200],
        str(letter.attempts),
        moment(letter.died_at),
        letter.reason,
        letter.error[:200],
    )


@command.command("show")
@shows_one
def show_command(
    message_id: str,
    modules: tuple[str, ...],
    queue: str | None,
    hides_arguments: bool,
    as_json: bool,
) -> None:
    """Show one dead letter with its traceback."""
    from .. import deadletters

    loaded(modules)
    letter = asyncio.run(deadletters.show(message_id, queue))
    if letter is None:
        raise AsynctasqError(_NONE.format(message_id))
    fields = asdict(_without(letter) if hides_arguments else letter)
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    traceback = fields.pop("traceback")
    del fields["references"]  # the arguments say the same
    fields["died_at"] = moment(letter.died_at)
    show_fields(fields, traceback, width=14)


def _chosen(function: Callable[..., None]) -> Callable[..., None]:
    """Arguments of the commands that change something: ids, a filter, or a deliberate `--all`."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All, in all queues or in --queue."),
        queue_option,
        _filtered,
        module_option,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        function = option(function)
    return function


def _selected(
    ids: tuple[str, ...], everything: bool, where: Filter | None
) -> tuple[Sequence[str] | None, Filter | None]:
    if [bool(ids), everything, where is not None].count(True) != 1:
        raise click.UsageError(
            "give either ids of dead letters, or --all, or any of --task, --reason, --error, "
            "--arguments, --older-than"
        )
    return ids or None, where


@command.command("retry")
@_chosen
def retry_command(
    ids: tuple[str, ...], modules: tuple[str, ...], queue: str | None, everything: bool, **by: Any
) -> None:
    """Run dead letters again, each with its old id and all of its attempts."""
    from .. import deadletters

    chosen, where = _selected(ids, everything, _where(**by))
    loaded(modules)
    moving = _with_bar("retrying", deadletters.retry, queue, chosen, where)
    _report("retried", asyncio.run(moving), chosen)


@command.command("purge")
@_chosen
def purge_command(
    ids: tuple[str, ...], modules: tuple[str, ...], queue: str | None, everything: bool, **by: Any
) -> None:
    """Delete dead letters for good."""
    from .. import deadletters

    chosen, where = _selected(ids, everything, _where(**by))
    loaded(modules)
    moving = _with_bar("deleting", deadletters.purge, queue, chosen, where)
    _report("deleted", asyncio.run(moving), chosen)


async def _with_bar(
    what: str,
    move: Callable[..., Awaitable[int]],
    queue: str | None,
    ids: Sequence[str] | None,
    where: Filter | None,
) -> int:
    """Move dead letters; all of them, or those that match, with a bar."""
    from ..looking import queues

    if ids is not None:
        return await move(queue, ids)
    # How many match is known only at the end.
    dead = [q.dead for q in await queues() if queue in (None, q.name)]
    total = sum(dead) if where is None else None
    with bar(what) as show:
        on_progress = None if show is None else lambda done: show(done, total)
        return await move(queue, None, where, on_progress=on_progress)


def _report(what: str, count: int, ids: Sequence[str] | None) -> None:
    click.echo(f"{what} {count} dead letter{'' if count == 1 else 's'}")
    if ids is None or count >= (given := len(set(ids))):
        return
    if count == 0:
        raise AsynctasqError(_NONE.format(", ".join(dict.fromkeys(ids))))
    missing = given - count
    are = "is no dead letter" if missing == 1 else "are no dead letters"
    raise AsynctasqError(f"{missing} of the ids {are}; `asynctasq dead list` shows them")
