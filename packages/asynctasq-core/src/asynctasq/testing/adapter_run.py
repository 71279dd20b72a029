"""Running the suite that an installed adapter brings with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from asynctasq.adapters.plugins import Adapter, installed
from asynctasq.errors import PluginError

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
    module, _, cls = _suite(_adapter(name)).partition(":")
    command = [sys.executable, "-m", "pytest", "-c", str(CONFIGURATION), "--rootdir", "."]
    command += ["-p", "no:cacheprovider", "--pyargs", f"{module}::{cls}", *arguments]
    return subprocess.run(command, check=False).returncode


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
