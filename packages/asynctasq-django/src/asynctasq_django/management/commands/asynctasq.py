"""`manage.py asynctasq ...`: the command `asynctasq` with Django set up."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    """Everything after the command's name goes to `asynctasq` as it is."""

    help = "Background tasks: worker, status, dead, doctor, plugins."
    # `doctor` says more, and a worker should start while a database is away.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Take all that follows."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass on what was typed, options such as `--help` included."""
        self._run(argv[2:])

    def handle(self, *args: Any, **options: Any) -> None:
        """For `call_command("asynctasq", "status")`, which returns if all is well."""
        try:
            self._run([*args, *options["arguments"]])
        except SystemExit as e:
            if e.code:
                raise CommandError(f"asynctasq exited with {e.code}") from None

    def _run(self, arguments: list[str]) -> None:
        from asynctasq.cli import cli

        cli.main(args=arguments, prog_name="manage.py asynctasq")
