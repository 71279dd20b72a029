"""What commands share: loading the application, talking to its broker, printing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .log_lines import printable

if TYPE_CHECKING:
    from rich.table import Table

    from ..app import App
    from ..brokers import Broker
    from ..sending.progress import Progress

T = TypeVar("T")

#: Length of a message's id in characters.
_ID_WIDTH = 32

#: Maximum length of a progress note in characters.
_NOTE = 80

module_option = click.option(
    "-m",
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Module or script of the application that calls asynctasq.init(...); repeatable. "
    "ASYNCTASQ_IMPORTS names more. Without any, environment variables and defaults apply.",
)

queue_option = click.option("-q", "--queue", metavar="QUEUE", help="Only this queue.")

arguments_option = click.option(
    "--no-arguments", "hides_arguments", is_flag=True, help="Do not show the calls' arguments."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def shows_one(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of the commands that show one call by its id."""
    for option in (
        json_option,
        arguments_option,
        queue_option,
        module_option,
        click.argument("message_id", metavar="ID"),
    ):
        function = option(function)
    return function


def loaded(modules: tuple[str, ...]) -> App:
    """The application, after importing the modules that configure it, as in a worker."""
    from .. import app
    from .. import loading as imports

    imports.load_application(modules)
    return app.current()


def with_broker(app: App, use: Callable[[Broker], Awaitable[T]]) -> T:
    """Run one conversation with the broker on its own event loop."""

    async def conversation() -> T:
        return await use(app.open_broker())

    return asyncio.run(conversation())


def table(title: str, *columns: str) -> Table:
    """A plain table that truncates nothing and keeps ids whole, so that they can be copied."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", width=_ID_WIDTH if column == "id" else None)
    return made


def add_row(made: Table, *cells: str) -> None:
    """Add a row, with control characters made visible."""
    made.add_row(*map(printable, cells))


def show(*renderables: Any) -> None:
    """Print with rich, as wide as needed if the output is not a terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for renderable in renderables:
        console.print(renderable)


def show_fields(fields: Mapping[str, object], traceback: str, width: int) -> None:
    """Print one field per line, with the values `width` characters in, and then the traceback."""
    for name, value in fields.items():
        click.echo(f"{name + ':':<{width}} {printable(str(value))}")
    if traceback:
        click.echo(f"\n{printable(traceback, lines=True)}")


def how_far(progress: Progress) -> str:
    """What a task has told of its progress, such as `7 of 100 working`."""
    total = "" if progress.total is None else f" of {progress.total:,g}"
    return f"{progress.done:,g}{total} {progress.note[:_NOTE]}".rstrip()


def moment(seconds: float) -> str:
    """A Unix time as local date and time; `?` if it is not a valid time."""
    from datetime import datetime

    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
    except (ValueError, TypeError, OverflowError, OSError):
        return "?"
