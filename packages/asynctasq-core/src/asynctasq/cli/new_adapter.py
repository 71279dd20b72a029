"""`asynctasq new-adapter`: write a skeleton that passes the suite."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from ..errors import AsynctasqError

#: Where each file of the skeleton goes.
_FOLDERS = {
    "pyproject.toml": "",
    "README.md": "",
    **dict.fromkeys(
        ("__init__.py", "orm.py", "adapter.py", "suite.py", "py.typed"), "src/$package"
    ),
}


@click.command("new-adapter")
@click.argument("name")
def command(name: str) -> None:
    """Write asynctasq-NAME, an adapter to start from, into a new folder.

    NAME is the entry point's name, which travels in every message.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise click.UsageError(
            f"{name!r} is not a name: use small letters, digits and _, with a letter first"
        )
    distribution = f"asynctasq-{name.replace('_', '-')}"
    words = {"name": name, "package": f"asynctasq_{name}", "distribution": distribution}
    try:
        Path(distribution).mkdir()
    except FileExistsError:
        raise AsynctasqError(f"{distribution} already exists") from None
    for file, folder in _FOLDERS.items():
        target = Path(distribution, Template(folder).substitute(words), file)
        target.parent.mkdir(parents=True, exist_ok=True)
        skeleton = files(__package__) / "skeleton" / f"{file}.txt"
        target.write_text(Template(skeleton.read_text("utf-8")).substitute(words), "utf-8")
    click.echo(
        f"wrote {distribution}; next:\n"
        f"  cd {distribution}\n"
        f'  pip install -e ".[testing]"\n'
        f"  asynctasq test-adapter {name}"
    )
