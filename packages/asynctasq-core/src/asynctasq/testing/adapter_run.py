"""Runs the suite that an installed adapter ships with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from asynctasq.adapters.plugins import Adapter, installed
from asynctasq.errors import PluginError

from .mutants import MUTANTS, VARIABLE, Mutant

#: The suite's own pytest settings, so that those of the current directory have no effect.
CONFIGURATION = Path(__file__).with_name("adapter_run.ini")


def run_adapter_suite(name: str, arguments: Sequence[str] = ()) -> int:
    """Run an installed adapter's suite in a separate process that shares our output.

    Args:
        name: The adapter's entry point.
        arguments: More arguments for pytest.

    Returns:
        The exit code of pytest.

    Raises:
        PluginError: No such adapter is loaded, or it has no suite.
    """
    command = [*_command(name), "-p", "asynctasq.testing.adapter_report", *arguments]
    return subprocess.run(command, check=False).returncode


def check_adapter_suite(name: str, arguments: Sequence[str] = ()) -> Iterator[tuple[Mutant, int]]:
    """Run the suite against the adapter once for each deliberate mistake.

    Args:
        name: The adapter's entry point.
        arguments: More arguments for pytest.

    Yields:
        Each mistake with pytest's exit code: `TESTS_FAILED` if the suite found it, `OK` if it did
        not, `NO_TESTS_COLLECTED` if no test looks for it.

    Raises:
        PluginError: No such adapter is loaded, or it has no suite.
    """
    command = [*_command(name), "-p", "asynctasq.testing.mutants", "-x", "-q", *arguments]
    for mutant_name, mutant in MUTANTS.items():
        done = subprocess.run(
            [*command, "-k", mutant.tests],
            env={**os.environ, VARIABLE: mutant_name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        yield mutant, done.returncode


def _command(name: str) -> list[str]:
    module, _, cls = _suite(_adapter(name)).partition(":")
    command = [sys.executable, "-m", "pytest", "-c", str(CONFIGURATION), "--rootdir", "."]
    return [*command, "-p", "no:cacheprovider", "--pyargs", f"{module}::{cls}"]


def _adapter(name: str) -> Adapter:
    adapters = installed()
    if name in adapters.loaded:
        return adapters.loaded[name]
    for report in adapters.reports:
        if report.name == name:
            raise PluginError(f"adapter {name!r} of {report.distribution}: {report.reason}")
    found = ", ".join(sorted(adapters.loaded)) or "none"
    raise PluginError(f"no adapter {name!r} is installed; there are: {found}")


def _suite(adapter: Adapter) -> str:
    if adapter.adapter_suite is None:
        raise PluginError(
            f"adapter {adapter.name!r} brings no suite: give it a hook adapter_suite that returns "
            f'"module:Class" of its subclass of asynctasq.testing.AdapterSuite'
        )
    target = adapter.adapter_suite()
    if target.count(":") != 1 or target.startswith(":") or target.endswith(":"):
        raise PluginError(
            f"adapter {adapter.name!r}: its hook adapter_suite returned {target!r}, "
            f"which is not of the form module:Class"
        )
    return target
