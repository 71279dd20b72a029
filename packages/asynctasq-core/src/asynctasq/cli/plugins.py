"""`asynctasq plugins`: the installed plugins, and why any of them fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points
from typing import TYPE_CHECKING

import click

from . import FAILED
from .application import add_row, json_option, show, table

if TYPE_CHECKING:
    from ..adapters.plugins import PluginReport, State

#: `asynctasq` 1.x on the public index is another project with our import name.
_OURS = "asynctasq-core"


@click.command("plugins")
@json_option
def command(as_json: bool) -> None:
    """Show the installed adapters and brokers: version, state, and why one failed.

    Exits with 1 if one of them failed.
    """
    from ..adapters.plugins import installed

    reports = [("adapter", r) for r in installed().reports]
    if not reports and not as_json:
        click.echo("No adapters are installed: try asynctasq-sqlalchemy, -django or -tortoise.")
    reports += [("broker", r) for r in _brokers()]
    if as_json:
        click.echo(json.dumps([{"kind": kind, **asdict(r)} for kind, r in reports], indent=2))
    else:
        shown = table("Plugins", "kind", "name", "distribution", "version", "state", "reason")
        for kind, r in reports:
            add_row(shown, kind, r.name, r.distribution, r.version, r.state, r.reason)
        show(shown)
    if foreign := foreign_distribution():
        click.echo(f"warning: {foreign}", err=True)
    if any(r.state == "failed" for _, r in reports):
        raise SystemExit(FAILED)


def _brokers() -> Iterator[PluginReport]:
    from ..adapters.plugins import PluginReport
    from ..brokers.opening import GROUP, installed_drivers

    failed = installed_drivers().failed
    for entry_point in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        name, of = entry_point.name, entry_point.dist
        distribution, version = (of.name, of.version) if of else ("?", "?")
        state: State = "failed" if name in failed else "loaded"
        yield PluginReport(name, distribution, version, state, failed.get(name, ""))


def foreign_distribution() -> str:
    """What is wrong if another project named `asynctasq` is installed, too; empty if none is."""
    try:
        other = distribution("asynctasq")
    except PackageNotFoundError:
        return ""
    if _requires_core(other):
        return ""
    return (
        f"the distribution asynctasq {other.version} is another project with the same import "
        f"name; its files and those of {_OURS} overwrite each other. Uninstall both, then install "
        f"{_OURS} again."
    )


def _requires_core(other: Distribution) -> bool:
    return any(requirement.startswith(_OURS) for requirement in other.requires or ())
