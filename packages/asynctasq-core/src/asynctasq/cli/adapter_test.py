"""`asynctasq test-adapter`: run the conformance suite on an installed adapter."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click

from . import FAILED


@click.command(
    "test-adapter", context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
@click.option(
    "--self-check",
    is_flag=True,
    help="Instead, make deliberate mistakes in the adapter and see whether the suite finds them.",
)
@click.argument("name")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def command(name: str, self_check: bool, pytest_arguments: tuple[str, ...]) -> None:
    """Test whether the installed adapter NAME keeps the contract.

    Further arguments go to pytest.
    """
    try:
        for needed in ("pytest", "pytest_asyncio", "pytest_timeout"):
            import_module(needed)
        from ..testing import run_adapter_suite
    except ModuleNotFoundError as e:
        raise click.ClickException(
            f"{e.name} is not installed: pip install 'asynctasq-core[testing]'"
        ) from e
    if self_check:
        _check(name, pytest_arguments)
    else:
        raise SystemExit(run_adapter_suite(name, pytest_arguments))


#: What became of a mistake, by pytest's exit code.
_WORDS = {0: "MISSED", 1: "found", 5: "not tested"}


def _check(name: str, arguments: Sequence[str]) -> None:
    from ..testing import check_adapter_suite

    codes = []
    for mutant, code in check_adapter_suite(name, arguments):
        codes.append(code)
        click.echo(f"{_WORDS.get(code, f'pytest failed ({code})'):<12} {mutant.what}")
    if set(codes) - {1, 5}:
        raise SystemExit(FAILED)
