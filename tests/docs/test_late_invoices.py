"""The commands of the page of the command line with which an operator mends a tenant's invoices."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asynctasq
import asynctasq.app
import pytest
from asynctasq import Worker
from asynctasq.cli import cli
from asynctasq.looking import run_sync
from asynctasq.tasks.task import registry
from click.testing import CliRunner

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

APP = """
from asynctasq import Limit, init, task

init(driver="sqlite")
mended, sent = [], []

@task(queue="invoices", max_attempts=1, limit=Limit(1, by="tenant"))
async def bill(tenant, number):
    if tenant == 7 and not mended:
        raise ConnectionError("mail.example.com does not answer")
    sent.append((tenant, number))
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The application, imported as the commands import it."""
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    import app  # type: ignore[import-not-found]

    yield app
    assert asynctasq.app._current is not None
    asynctasq.app._current.connections.leave_portal()
    del registry["app.bill"], sys.modules["app"]


def said(command: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, shlex.split(command))
    assert done.exit_code == 0, done.output
    return done.output


def work() -> None:
    asyncio.run(Worker(queues=["invoices"], burst=True).run())


def test_a_tenant_s_invoices_are_found_stopped_and_sent_in_the_end(app: Any) -> None:
    section = PAGE.read_text().partition("## Late invoices\n")[2]
    commands = re.findall(r"^asynctasq (.*?) +#", section, re.MULTILINE)
    status, calls, dead, pause, retry, resume = commands
    run_sync(app.bill(7, 1).dispatch())
    work()
    for tenant, number in ((7, 2), (8, 1)):
        run_sync(app.bill(tenant, number).dispatch())
    assert re.search(r"limit +app\.bill tenant=7", said(status))
    assert re.search(r"waiting +app\.bill +tenant=7, number=2", said(calls))
    assert "tenant=8" not in said(calls)
    assert "mail.example.com does not answer" in said(dead)
    said(pause)
    work()
    assert app.sent == [(8, 1)]
    app.mended.append(True)
    assert said(retry) == "retried 1 dead letter\n"
    said(resume)
    work()
    assert sorted(app.sent) == [(7, 1), (7, 2), (8, 1)]
