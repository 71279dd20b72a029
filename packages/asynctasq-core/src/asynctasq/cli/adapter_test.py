"""`asynctasq test-adapter`: run the conformance suite of adapters on an installed one."""

from __future__ import annotations

import click


@click.command(
    "test-adapter", context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
@click.argument("name")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def command(name: str, pytest_arguments: tuple[str, ...]) -> None:
    """Test the installed adapter NAME against the contract of adapters.

    Further arguments go to pytest.
    """
    try:
        from ..testing import run_adapter_suite
    except ModuleNotFoundError as e:
        raise click.ClickException(
            f"{e.name} is not installed: pip install 'asynctasq-core[testing]'"
        ) from e
    raise SystemExit(run_adapter_suite(name, pytest_arguments))
