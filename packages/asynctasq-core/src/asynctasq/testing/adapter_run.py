"""Running the suite that an installed adapter brings with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from asynctasq.adapters.plugins import Adapter, installed
from asynctasq.errors import PluginError

from .mutants import MUTANTS, VARIABLE, Mutant

#: The suite's own settings, so that those of the folder it is started in change nothing.
CONFIGURATION = Path(__file__).with_name("adapter_run.ini")


def run_adapter_suite(name: str, arguments: Sequence[str] = ()) -> int:
    """Run the suite of an installed adapter in a process of its own, with its output on ours.

    Args:
        name: The adapter's entry point.
        arguments: Further ones for pytest.

    Returns:
        The exit code of pytest.

    Raises:
        PluginError: No such adapter is loaded, or it names no suite.
    """
    command = [*_command(name), "-p", "asynctasq.testing.adapter_report", *arguments]
    return subprocess.run(command, check=False).returncode


def check_adapter_suite(name: str, arguments: Sequence[str] = ()) -> Iterator[tuple[Mutant, int]]:
    """Run the suite on the adapter with one mistake after the other.

    Args:
        name: The adapter's entry point.
        arguments: Further ones for pytest.

    Yields:
        Each mistake with the exit code of pytest: `TESTS_FAILED` if the suite found it, `OK` if
        not, `NO_TESTS_COLLECTED` if no test looked for it.

    Raises:
        PluginError: No such adapter is loaded, or it names no suite.
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
