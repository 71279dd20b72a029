"""`asynctasq doctor`: can broker and databases be reached, and will settings hurt?"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from . import FAILED
from .application import json_option, loaded, module_option, with_broker
from .plugins import foreign_distribution

if TYPE_CHECKING:
    from ..adapters.plugins import Adapter, Adapters
    from ..app import App
    from ..brokers import Broker, Finding

#: A call that waits in an outbox for longer than this is stuck, not just on its way.
_LONGEST_WAIT_SECONDS = 60.0

_SIGNS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("doctor")
@module_option
@json_option
def command(modules: tuple[str, ...], as_json: bool) -> None:
    """Check broker, adapters and databases; exit with 1 if something does not work."""
    app = loaded(modules)

    async def examine(broker: Broker) -> list[Finding]:
        found = [*_installation(app.adapters), *await _of_broker(broker)]
        for adapter in app.adapters.with_hook("check"):
            found += await _of_adapter(adapter)
        return [*found, *await _of_outboxes(app), *await _of_what_waits(broker)]

    findings = with_broker(app, examine)
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            _print(finding)
    if any(f.level == "error" for f in findings):
        raise SystemExit(FAILED)


def _installation(adapters: Adapters) -> Iterable[Finding]:
    from ..brokers import Finding

    if foreign := foreign_distribution():
        yield Finding("error", "installation", foreign)
    for report in adapters.reports:
        subject = f"adapter {report.name}"
        what = f"{report.distribution} {report.version} {report.state}"
        if report.state == "failed":
            yield Finding("error", subject, f"{what}: {report.reason}")
        else:
            yield Finding("ok", subject, f"{what} {report.reason}".rstrip())


async def _of_broker(broker: Broker) -> list[Finding]:
    from ..brokers import Finding
    from ..errors import BrokerError

    try:
        return await broker.check()
    except BrokerError as e:
        return [Finding("error", "broker", str(e), f"check the address: {broker.describe()}")]


async def _of_adapter(adapter: Adapter) -> list[Finding]:
    """The adapter's findings; its failure is a finding, too."""
    from ..brokers import Finding

    assert adapter.check is not None
    try:
        answer: Any = adapter.check()
        return list(await answer if inspect.isawaitable(answer) else answer)
    except Exception as e:  # noqa: BLE001 - a plugin's code; its failure is the finding
        return [
            Finding(
                "error", f"adapter {adapter.name}", f"its check failed: {type(e).__name__}: {e}"
            )
        ]


async def _of_outboxes(app: App) -> list[Finding]:
    """Findings on missing tables of the outbox and atomic tasks, and on calls stuck there."""
    from ..brokers import Finding
    from ..services.backlog import backlogs

    found = []
    for o in await backlogs(app.config, app.outbox):
        subject = f"tables in {o.database}"
        if o.missing:
            names = " and ".join(o.missing)
            ddl = "\n         ".join(f"{sql};" for sql in o.creation)
            advice = f"add a migration, or run `asynctasq tables create`, or this:\n         {ddl}"
            found.append(Finding("error", subject, f"{names} cannot be read: {o.reason}", advice))
            continue
        age = o.oldest_seconds or 0.0
        text = f"{o.waiting} calls are waiting in the outbox"
        if age < _LONGEST_WAIT_SECONDS:
            found.append(Finding("ok", subject, text))
        else:
            text += f", the oldest for {age:.0f} s"
            advice = "workers send them: is one running, and does the broker answer?"
            found.append(Finding("warning", subject, text, advice))
    return found


async def _of_what_waits(broker: Broker) -> list[Finding]:
    """Findings on what waits for someone to act: pauses, and tasks that no worker knows."""
    from ..brokers import Finding
    from ..errors import BrokerError
    from ..pausing import pauses_of
    from ..worker.not_yet_known import not_yet_known
    from .application import moment

    try:
        pauses = await pauses_of(broker)
        unknown = await not_yet_known(broker, [queue.name for queue in await broker.stats()])
    except BrokerError:
        return []  # reported already
    found = []
    for p in pauses:
        text = f"{p.what} paused since {moment(p.since)} by {p.by}"
        found.append(Finding("warning", f"queue {p.queue}", text, "asynctasq resume"))
    for t in unknown:
        text = f"calls of {t.task or 'a task'} wait for a worker that knows them: {t.error}"
        advice = "start workers with the newest code; they are dead letters after `unknown_for`"
        found.append(Finding("warning", f"queue {t.queue}", text, advice))
    return found


def _print(finding: Finding) -> None:
    sign = click.style(_SIGNS[finding.level], fg=_COLOURS[finding.level])
    click.echo(f"{sign}  {finding.subject}: {finding.text}")
    if finding.advice:
        click.echo(f"         {finding.advice}")
