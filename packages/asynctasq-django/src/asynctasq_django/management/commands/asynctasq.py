"""`manage.py asynctasq ...`: the command `asynctasq` with Django set up."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandParser


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
        """For `call_command("asynctasq", "status")`."""
        self._run([*args, *options["arguments"]])

    def _run(self, arguments: list[str]) -> None:
        from asynctasq.cli import cli

        cli.main(args=arguments, prog_name="manage.py asynctasq")
