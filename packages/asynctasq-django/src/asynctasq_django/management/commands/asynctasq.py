"""`manage.py asynctasq ...`: the command `asynctasq` with Django set up."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

_LOG_LEVELS = {0: "error", 2: "info", 3: "debug"}


class Command(BaseCommand):
    """Passes everything after its name to `asynctasq`, except Django's own options."""

    help = "Background tasks: worker, status, dead, doctor, plugins."
    # `doctor` says more, and a worker should start even while a database is away.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Take everything that follows."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass on what was typed, including options such as `--help`."""
        try:
            self._run(argv[2:], {"verbosity": 1})
        except CommandError as e:
            self.stderr.write(f"{type(e).__name__}: {e}", self.style.ERROR)
            sys.exit(e.returncode)

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve `call_command("asynctasq", "status")`, which returns if all is well."""
        try:
            self._run([*args, *options["arguments"]], options)
        except SystemExit as e:
            if e.code:
                raise CommandError(f"asynctasq exited with {e.code}") from None

    def _run(self, arguments: Sequence[str], options: Mapping[str, Any]) -> None:
        from asynctasq.cli import cli

        given, rest = _split(arguments)
        if given.no_color and given.force_color:
            raise CommandError("The --no-color and --force-color options can't be used together.")
        if rest[:1] == ["worker"]:
            verbosity = given.verbosity
            rest = _with_log_level(rest, options["verbosity"] if verbosity is None else verbosity)
        with _environment(given, options):
            is_raised = given.traceback or options.get("traceback", False)
            name = "manage.py asynctasq"
            sys.exit(cli.main(args=rest, prog_name=name, standalone_mode=not is_raised))


def _split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Django's own options, wherever they stand before a `--`, and everything else.

    Django itself has applied `--settings` and `--pythonpath` already.
    """
    parser = argparse.ArgumentParser(prog="manage.py asynctasq", add_help=False, allow_abbrev=False)
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4))
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(name, action="store_true")
    before = list(takewhile(lambda argument: argument != "--", arguments))
    given, rest = parser.parse_known_args(before)
    return given, [*rest, *arguments[len(before) :]]


def _with_log_level(arguments: list[str], verbosity: int) -> list[str]:
    is_given = any(argument.partition("=")[0] == "--log-level" for argument in arguments)
    level = _LOG_LEVELS.get(verbosity)
    return arguments if is_given or level is None else [*arguments, "--log-level", level]


@contextmanager
def _environment(given: argparse.Namespace, options: Mapping[str, Any]) -> Iterator[None]:
    """Set what rich, and the processes of `--processes`, read from the environment."""
    folders = [folder for folder in sys.path[: 2 if given.pythonpath else 1] if folder]
    wanted = {"PYTHONPATH": os.pathsep.join([*folders, *_existing("PYTHONPATH")])}
    for option, name in (("no_color", "NO_COLOR"), ("force_color", "FORCE_COLOR")):
        if getattr(given, option) or options.get(option):
            wanted[name] = "1"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _existing(name: str) -> list[str]:
    value = os.environ.get(name)
    return [value] if value else []
