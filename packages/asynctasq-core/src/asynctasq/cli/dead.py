"""`asynctasq dead`: look at what failed for good, run it again, or delete it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from textwrap import indent
from typing import TYPE_CHECKING

import click

from ..errors import AsynctasqError
from .application import add_row, json_option, loaded, module_option, moment, show, table
from .logs import printable

if TYPE_CHECKING:
    from ..deadletters import DeadLetter

_NONE = "no dead letter {}; `asynctasq dead list` shows them"

#: Up to here `list` prints a table.
_MOST_IN_TABLE = 200

queue_option = click.option("-q", "--queue", metavar="QUEUE", help="Only this queue.")


@click.group("dead")
def command() -> None:
    """Dead letters: messages that failed for good."""


@command.command("list")
@module_option
@queue_option
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, help="How many to pass over.")
@json_option
def list_command(
    modules: tuple[str, ...], queue: str | None, limit: int, offset: int, as_json: bool
) -> None:
    """List dead letters, newest first."""
    from .. import deadletters

    loaded(modules)
    pages = deadletters.pages(queue, limit=limit, offset=offset)
    asyncio.run(_print_json(pages) if as_json else _print(pages, limit))


async def _print_json(pages: AsyncIterator[list[DeadLetter]]) -> None:
    """One array, written as it comes."""
    before = "["
    async for page in pages:
        for letter in page:
            click.echo(f"{before}\n{indent(json.dumps(asdict(letter), indent=2), '  ')}", nl=False)
            before = ","
    click.echo("[]" if before == "[" else "\n]")


async def _print(pages: AsyncIterator[list[DeadLetter]], limit: int) -> None:
    """A table, or if there may be many lines: laying out a row takes longer than reading it."""
    shown: list[DeadLetter] = []
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


def _table(letters: list[DeadLetter]) -> object:
    shown = table("Dead letters", "id", "queue", "task", "attempts", "died", "reason", "error")
    for letter in letters:
        add_row(shown, *_cells(letter))
    return shown


def _cells(letter: DeadLetter) -> tuple[str, ...]:
    return (
        letter.id,
        letter.queue,
        letter.task,
        str(letter.attempts),
        moment(letter.died_at),
        letter.reason,
        letter.error[:200],
    )


@command.command("show")
@click.argument("message_id", metavar="ID")
@module_option
@queue_option
@json_option
def show_command(
    message_id: str, modules: tuple[str, ...], queue: str | None, as_json: bool
) -> None:
    """Show one dead letter with its traceback."""
    from .. import deadletters

    loaded(modules)
    letter = asyncio.run(deadletters.show(message_id, queue))
    if letter is None:
        raise AsynctasqError(_NONE.format(message_id))
    fields = asdict(letter)
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    traceback = fields.pop("traceback")
    fields["died_at"] = moment(letter.died_at)
    for name, value in fields.items():
        click.echo(f"{name + ':':<14} {printable(str(value))}")
    click.echo(f"\n{printable(traceback, lines=True)}" if traceback else "")


def _chosen(function: Callable[..., None]) -> Callable[..., None]:
    """Arguments of the commands that change something: ids, or a deliberate `--all`."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All, of all queues or of --queue."),
        queue_option,
        module_option,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        function = option(function)
    return function


def _ids(ids: tuple[str, ...], everything: bool) -> Sequence[str] | None:
    if everything == bool(ids):
        raise click.UsageError("give either ids of dead letters or --all")
    return None if everything else ids


@command.command("retry")
@_chosen
def retry_command(
    ids: tuple[str, ...], modules: tuple[str, ...], queue: str | None, everything: bool
) -> None:
    """Run dead letters again, each under its id and with all attempts ahead."""
    from .. import deadletters

    chosen = _ids(ids, everything)
    loaded(modules)
    _report("retried", asyncio.run(deadletters.retry(queue, chosen)), chosen)


@command.command("purge")
@_chosen
def purge_command(
    ids: tuple[str, ...], modules: tuple[str, ...], queue: str | None, everything: bool
) -> None:
    """Delete dead letters for ever."""
    from .. import deadletters

    chosen = _ids(ids, everything)
    loaded(modules)
    _report("deleted", asyncio.run(deadletters.purge(queue, chosen)), chosen)


def _report(what: str, count: int, ids: Sequence[str] | None) -> None:
    click.echo(f"{what} {count} dead letter{'' if count == 1 else 's'}")
    if ids is None or count >= (given := len(set(ids))):
        return
    if count == 0:
        raise AsynctasqError(_NONE.format(", ".join(dict.fromkeys(ids))))
    missing = given - count
    are = "is no dead letter" if missing == 1 else "are no dead letters"
    raise AsynctasqError(f"{missing} of the ids {are}; `asynctasq dead list` shows them")
