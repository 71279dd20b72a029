"""`asynctasq status`: what the queues hold, and which workers serve them."""

from __future__ import annotations

import json

import click

from .application import json_option, loaded, module_option, show, with_broker
from .queue_status import look, tables
from .watching import watch as watch_status


@click.command("status")
@module_option
@json_option
@click.option("--keys", is_flag=True, help="Also show policy keys in use.")
@click.option("--watch", is_flag=True, help="Keep showing it, until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch refreshes.",
)
def command(modules: tuple[str, ...], as_json: bool, keys: bool, watch: bool, every: float) -> None:
    """Show the broker, its queues and its workers."""
    app = loaded(modules)
    if watch:
        watch_status(app, every, as_json=as_json, with_keys=keys)
        return
    status = with_broker(app, lambda broker: look(app, broker, with_keys=keys))
    if as_json:
        click.echo(json.dumps(status.content(), indent=2))
        return
    click.echo(f"broker: {status.broker}\n")
    show(*tables(status))
