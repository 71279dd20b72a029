"""`asynctasq schedule`: list schedules, pause them, and run them by hand."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from ..errors import AsynctasqError
from .application import add_row, json_option, loaded, module_option, show, table
from .log_lines import printable

if TYPE_CHECKING:
    from ..scheduling import Schedule


@click.group("schedule")
def command() -> None:
    """Schedules: calls that the workers make by themselves."""


name_argument = click.argument("name")


@command.command("list")
@module_option
@json_option
def list_command(modules: tuple[str, ...], as_json: bool) -> None:
    """List all schedules, with their next and last ticks in local time."""
    from .. import scheduling

    loaded(modules)
    found = asyncio.run(scheduling.schedules())
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2, default=_iso))
    elif found:
        shown = table("Schedules", "name", "task", "when", "queue", "next", "last", "declared")
        for one in found:
            add_row(shown, *_cells(one))
        show(shown)
    else:
        click.echo("No schedules.")


def _cells(one: Schedule) -> tuple[str, ...]:
    following = "-" if one.next is None else _local(one.next)
    return (
        one.name,
        one.task,
        one.timetable,
        one.queue,
        "paused" if one.is_paused else following,
        _local(one.last),
        "in code" if one.is_declared else "",
    )


@command.command("run")
@name_argument
@module_option
def run_command(name: str, modules: tuple[str, ...]) -> None:
    """Make a schedule's call now, in addition to its ticks; prints the call's id."""
    from .. import scheduling

    loaded(modules)
    message_id = asyncio.run(scheduling.run_now(name))
    if message_id is None:
        raise _missing(name)
    click.echo(message_id)


@command.command("pause")
@name_argument
@module_option
def pause_command(name: str, modules: tuple[str, ...]) -> None:
    """Keep a schedule from making calls until it is resumed, even across deployments."""
    from .. import scheduling

    loaded(modules)
    if not asyncio.run(scheduling.pause(name)):
        raise _missing(name)
    click.echo(f"paused {printable(name)}")


@command.command("resume")
@name_argument
@module_option
def resume_command(name: str, modules: tuple[str, ...]) -> None:
    """Let a schedule go on from now; missed ticks are skipped."""
    from .. import scheduling

    loaded(modules)
    if not asyncio.run(scheduling.resume(name)):
        raise _missing(name)
    click.echo(f"resumed {printable(name)}")


@command.command("next")
@name_argument
@click.option("-n", "count", type=click.IntRange(1, 1000), default=5, show_default=True)
@module_option
def next_command(name: str, count: int, modules: tuple[str, ...]) -> None:
    """Print the next ticks of a schedule in local time."""
    from .. import scheduling

    loaded(modules)
    ticks = asyncio.run(scheduling.next_ticks(name, count))
    if ticks is None:
        raise _missing(name)
    for tick in ticks:
        click.echo(_local(tick))


def _missing(name: str) -> AsynctasqError:
    return AsynctasqError(f"no schedule {name!r}; `asynctasq schedule list` shows them")


def _local(moment: datetime) -> str:
    return moment.astimezone().isoformat(" ", "seconds")


def _iso(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
