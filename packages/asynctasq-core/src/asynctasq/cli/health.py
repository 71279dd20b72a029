"""`asynctasq health`: are this host's workers alive? For probes that run a command."""

from __future__ import annotations

import asyncio
import socket

import click

from ..errors import BrokerError
from . import FAILED
from .application import loaded, module_option


@click.command("health")
@module_option
@click.option("--host", default=socket.gethostname, help="A host other than this one.")
def command(modules: tuple[str, ...], host: str) -> None:
    """Exit with 0 if a worker of this host is alive, and none is blocked.

    Asks the broker, to which every worker reports. For a probe that can use HTTP, `asynctasq worker
    --health-port` answers without starting a process.
    """
    from ..supervision.probes import BLOCKED, workers_of

    config = loaded(modules).config
    try:
        workers = [w for w in asyncio.run(workers_of(config)) if w.host == host]
    except TimeoutError as e:
        raise BrokerError("the broker does not answer") from e
    blocked = [worker for worker in workers if worker.is_blocked]
    for worker in blocked:
        click.echo(f"{worker.id}: {BLOCKED}")
    if not workers:
        click.echo(f"no worker of {host} is alive")
    if blocked or not workers:
        raise SystemExit(FAILED)
    click.echo(f"ok: {len(workers)} of {host}")
