"""`asynctasq plugins`: the installed adapters, and why one of them does not work."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import click

from .application import json_option, show, table

#: `asynctasq` 1.x on the public index is another project with our import name.
_OURS = "asynctasq-core"


@click.command("plugins")
@json_option
def command(as_json: bool) -> None:
    """Show the installed adapters: version, state, and the reason of a failure."""
    from ..adapters.plugins import installed

    reports = installed().reports
    foreign = foreign_distribution()
    if as_json:
        click.echo(json.dumps([asdict(r) for r in reports], indent=2))
    elif reports:
        shown = table("Adapters", "name", "distribution", "version", "state", "reason")
        for r in reports:
            shown.add_row(r.name, r.distribution, r.version, r.state, r.reason)
        show(shown)
    else:
        click.echo("No adapters are installed: try asynctasq-sqlalchemy, -django or -tortoise.")
    if foreign:
        click.echo(f"warning: {foreign}", err=True)


def foreign_distribution() -> str:
    """What is wrong if another project's `asynctasq` lies in the same environment; else empty."""
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
