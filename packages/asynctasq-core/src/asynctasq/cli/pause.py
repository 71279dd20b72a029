"""`asynctasq pause`: hold back a queue, a task, or some calls of a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import click

from .application import loaded, module_option
from .log_lines import printable

F = TypeVar("F", bound=Callable[..., object])


def meant(function: F) -> F:
    """The options that say what to hold back."""
    for option in (
        module_option,
        click.option(
            "--where",
            "where",
            multiple=True,
            metavar="NAME=TEXT",
            help="Only calls with this argument, as shown: order=Order#5; repeatable.",
        ),
        click.option("-t", "--task", metavar="TASK", help="The calls of this task."),
        click.option(
            "-q",
            "--queue",
            metavar="QUEUE",
            help="This queue; with --task, only that task's calls there.",
        ),
    ):
        function = option(function)
    return function


@click.command("pause")
@meant
@click.option("--by", metavar="NAME", help="Who pauses; by default the user and the machine.")
def command(
    queue: str | None,
    task: str | None,
    where: tuple[str, ...],
    modules: tuple[str, ...],
    by: str | None,
) -> None:
    """Keep workers from starting these calls until `asynctasq resume`; dispatching goes on."""
    from .. import pausing

    arguments = check(queue, task, where)
    loaded(modules)
    warn_if_unknown(task)
    asyncio.run(pausing.pause(queue=queue, task=task, where=arguments, by=by))
    click.echo(f"paused {shown(queue, task, where)}")


def check(queue: str | None, task: str | None, where: tuple[str, ...]) -> dict[str, str]:
    """Parse the arguments of --where.

    Raises:
        UsageError: The command line is wrong.
    """
    from ..config.settings import is_queue_name

    if queue is None and task is None:
        raise click.UsageError("say what: --queue, --task or both")
    if queue is not None and not is_queue_name(queue):
        raise click.UsageError(f"{queue!r} is not a queue name")
    if where and task is None:
        raise click.UsageError("--where says which calls of a task are meant: give --task")
    if wrong := [text for text in where if "=" not in text]:
        raise click.UsageError(f"--where {wrong[0]!r}: write NAME=TEXT, such as order=Order#5")
    return dict(text.split("=", 1) for text in where)


def warn_if_unknown(task: str | None) -> None:
    """Note that a name may be wrong; it need not be, since other code may have such a task."""
    from ..tasks.task import registry

    if task is not None and task not in registry:
        name = printable(task)
        click.echo(f"note: no task {name!r} is registered in the modules imported here", err=True)


def shown(queue: str | None, task: str | None, where: tuple[str, ...]) -> str:
    """What is held back, in words."""
    calls = "" if task is None else f"task {task}"
    arguments = f" where {', '.join(where)}" if where else ""
    place = "" if queue is None else f"queue {queue}"
    return printable(f"{calls}{arguments}{' on ' if calls and place else ''}{place}")
