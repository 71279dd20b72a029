"""`asynctasq dashboard`: one command, one server, one page."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

APP = """
import asynctasq
asynctasq.init(driver="sqlite", sqlite="queue.db")

@asynctasq.task(queue="mail", max_attempts=1)
async def send(address: str) -> None:
    raise ValueError(address)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def environment(**settings: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "asynctasq", *arguments]


@contextmanager
def serving(
    folder: Path, arguments: Sequence[str] = (), **settings: str
) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """The command on a port that is free, and a visitor."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        command("dashboard", "-m", "app", "--port", str(port), *arguments),
        cwd=folder,
        env=environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert f":{port}/" in line, line + server.stderr.read()
        transport = httpx.HTTPTransport(retries=10)
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(transport=transport, base_url=address, timeout=60) as visitor:
            yield visitor, server
    finally:
        server.kill()
        server.communicate()


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_it_shows_the_queues_of_the_application_and_ends_when_told(folder: Path) -> None:
    code = "import app; app.send('ada@example.com').dispatch_sync()"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), check=True)
    assert run(folder, "worker", "app", "--burst").returncode == 0
    with serving(folder, ["--title", "Ops"]) as (visitor, server):
        page = visitor.get("/")
        assert page.status_code == 200
        assert "Ops" in page.text
        assert "1 call of app.send was given up in the last hour" in page.text
        assert "address=&#39;ada@example.com&#39;" in visitor.get("/dead?by=one").text
        with visitor.stream("GET", "/queues?live=1") as stream:
            lines = stream.iter_lines()
            while not next(lines).startswith("event: content"):
                pass
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) in (0, -signal.SIGTERM)


def test_read_only_is_read_only(folder: Path) -> None:
    with serving(folder, ["--read-only"]) as (visitor, _):
        assert "you may look, but not change anything" in visitor.get("/").text
        data = {"do": "purge", "csrf": visitor.cookies["asynctasq_csrf"], "sure": "yes"}
        assert visitor.post("/do", data=data).status_code == 403


def test_a_password_is_asked_for_where_it_is_set(folder: Path) -> None:
    with serving(folder, ASYNCTASQ_DASHBOARD_PASSWORD="geheim") as (visitor, _):
        assert visitor.get("/").status_code == 401
        assert visitor.get("/", auth=("anybody", "geheim")).status_code == 200


def test_it_is_not_open_to_everybody_by_mistake(folder: Path) -> None:
    done = run(folder, "dashboard", "-m", "app", "--host", "0.0.0.0")
    assert done.returncode == 1
    assert "set ASYNCTASQ_DASHBOARD_PASSWORD, or anyone could do anything" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_description_names_all_that_can_be_set(folder: Path) -> None:
    text = run(folder, "dashboard", "--help").stdout
    readme = Path(__file__).parents[2] / "packages/asynctasq-dashboard/README.md"
    lines = readme.read_text().splitlines()
    (usage,) = [line for line in lines if line.startswith("asynctasq dashboard -m app.tasks [")]
    options = set(re.findall(r"--[a-z-]+", text)) - {"--help", "--module"}
    assert options == set(re.findall(r"--[a-z-]+", usage))
