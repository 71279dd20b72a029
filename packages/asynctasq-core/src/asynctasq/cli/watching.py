"""`asynctasq status --watch`: the status, refreshed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic

import click

from ..app import App
from ..errors import BrokerUnavailable
from .queue_status import Status, look, tables

_Looks = AsyncIterator[Status | BrokerUnavailable]


def watch(app: App, every: float, *, as_json: bool, with_keys: bool) -> None:
    """Show the status, refreshed at this interval in seconds, until Ctrl-C."""
    looks = _looks(app, every, with_keys)
    try:
        asyncio.run(_print_lines(looks) if as_json else _show(looks))
    except KeyboardInterrupt:
        return


async def _print_lines(looks: _Looks) -> None:
    async for found in looks:
        if isinstance(found, Status):
            click.echo(json.dumps(found.content()))
        else:
            click.echo(json.dumps({"error": str(found)}))


async def _show(looks: _Looks) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    before: tuple[float, Status] | None = None
    with Live(auto_refresh=False) as live:
        async for found in looks:
            if isinstance(found, Status):
                now = (monotonic(), found)
                parts = [Text(f"broker: {found.broker}\n"), *tables(found, _growth(before, now))]
                before = now
            else:
                parts = [Text(f"broker unavailable, retrying: {found}")]
            live.update(Group(*parts), refresh=True)


async def _looks(app: App, every: float, with_keys: bool) -> _Looks:
    while True:
        try:
            yield await look(app, app.open_broker(), with_keys=with_keys, with_running=True)
        except BrokerUnavailable as e:
            yield e
        await asyncio.sleep(every)


def _growth(before: tuple[float, Status] | None, now: tuple[float, Status]) -> dict[str, float]:
    if before is None:
        return {}
    seconds = now[0] - before[0]
    waited = {q.name: q.waiting for q in before[1].queues}
    return {
        q.name: (q.waiting - waited[q.name]) / seconds for q in now[1].queues if q.name in waited
    }
