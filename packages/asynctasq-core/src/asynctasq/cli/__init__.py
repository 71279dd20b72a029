"""The command `asynctasq`.

Owns three rules. A subcommand's module is imported only when the command runs, so that a worker
does not load what prints tables. A plugin's command that cannot be loaded hides no other. And our
own errors reach the user as one line without a traceback, except that an error in the application's
module shows where in the application it came from.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

import click

from ..errors import AsynctasqError, BrokenModule

#: Exit codes besides 0 and click's 2 for a wrong command line.
FAILED = 1

#: Entry point group of plugins' commands: the name is the command's, the value a `click.Command`.
GROUP = "asynctasq.commands"

_COMMANDS = {
    "worker": "worker",
    "status": "status",
    "health": "health",
    "tasks": "tasks",
    "show": "show",
    "dead": "dead",
    "cancel": "cancel",
    "watch": "watch_call",
    "pause": "pause",
    "resume": "resume",
    "schedule": "schedule",
    "plugins": "plugins",
    "doctor": "doctor",
    "tables": "tables",
    "test-adapter": "adapter_test",
    "new-adapter": "new_adapter",
}


class _Commands(click.Group):
    """The subcommands by name, each imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(_of_plugins())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            entry_point = _of_plugins().get(name)
            return None if entry_point is None else _plugin_command(entry_point)
        command: click.Command = import_module(f".{_COMMANDS[name]}", __name__).command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AsynctasqError as e:
            from .log_lines import printable

            click.echo(printable(_place_in_application(e), lines=True), err=True, nl=False)
            raise click.ClickException(printable(str(e), lines=True)) from e
        except UnicodeEncodeError as e:
            # An argument in another encoding, as Python hands it to us.
            if not any("\udc80" <= character <= "\udcff" for character in e.object):
                raise
            raise click.ClickException(f"not text in UTF-8: {e.object!a:.200}") from e


def _of_plugins() -> dict[str, EntryPoint]:
    """Plugins' commands by name; none replaces one of ours."""
    return {e.name: e for e in entry_points(group=GROUP) if e.name not in _COMMANDS}


def _plugin_command(entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry_point.value} is not a click.Command")
    # A plugin's code may even exit; the failure is reported when someone runs the command.
    except (Exception, SystemExit) as e:  # noqa: BLE001
        problem = f"command {entry_point.name!r} failed to load: {type(e).__name__}: {e}"
    else:
        return command

    def refuse() -> None:
        raise click.ClickException(problem)

    return click.Command(entry_point.name, callback=refuse, help=problem)


def _place_in_application(error: AsynctasqError) -> str:
    """The traceback of a failed import, from the application's first line on."""
    cause = error.__cause__
    if not isinstance(error, BrokenModule) or cause is None:
        return ""
    from traceback import format_exception

    frames = cause.__traceback__
    while frames and _is_machinery(frames.tb_frame.f_globals.get("__name__", "")):
        frames = frames.tb_next
    return "".join(format_exception(type(cause), cause, frames))


def _is_machinery(module: str) -> bool:
    return module.partition(".")[0] in ("asynctasq", "importlib", "_frozen_importlib")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asynctasq-core", prog_name="asynctasq")
def cli() -> None:
    """Background tasks that take ORM objects as arguments."""
    # As with `python -m`, modules in the working directory can be imported.
    if sys.path[0] != "":
        sys.path.insert(0, "")


def main() -> None:
    """Run the command line and exit."""
    cli(prog_name="asynctasq")
