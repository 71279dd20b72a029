"""How a worker is, as probes and service managers see it from outside."""

from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Place, eventually

APP = """
import time
from pathlib import Path
from asynctasq import task

@task
async def hog():
    while not Path("go_on").exists():
        time.sleep(0.05)
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        chosen: int = listener.getsockname()[1]
        return chosen


@pytest.fixture
def asked(port: int) -> Callable[[str], tuple[int, str]]:
    """Asks for a page; status 0 where nobody answers."""

    def asked(page: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()
        except OSError:
            return 0, ""

    return asked


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_is_ready_when_it_takes_messages_and_not_live_while_blocked(
    sqlite_place: Place, port: int, asked: Callable[[str], tuple[int, str]], processes: str
) -> None:
    place = sqlite_place
    place.write("app.py", APP)
    arguments = ("app", "--health-port", str(port), "--processes", processes)
    with place.start("worker", *arguments) as worker:
        eventually(lambda: asked("/ready") == (200, "ok\n"), 40)
        assert asked("/live") == (200, "ok\n")
        assert asked("/other")[0] == 404
        assert place.run("health").returncode == 0
        place.python("import app; app.hog().dispatch_sync()")
        blocked = (503, "a task blocks the event loop\n")
        eventually(lambda: asked("/live") == blocked, 40)
        assert asked("/ready") == blocked
        probe = place.run("health")
        assert (probe.returncode, "a task blocks the event loop" in probe.stdout) == (1, True)
        (place.path / "go_on").touch()
        eventually(lambda: asked("/live") == (200, "ok\n"))
        worker.terminate()
        assert worker.wait(30) == 0
    assert asked("/live")[0] == 0
    probe = place.run("health")
    assert (probe.returncode, "no worker of" in probe.stdout) == (1, True)


def test_a_worker_that_waits_for_its_broker_lives_and_is_not_ready(
    sqlite_place: Place, port: int, asked: Callable[[str], tuple[int, str]]
) -> None:
    sqlite_place.write("app.py", APP)
    settings = {"ASYNCTASQ_REDIS_URL": "redis://127.0.0.1:1/0"}
    with sqlite_place.start("worker", "app", "--health-port", str(port), **settings):
        eventually(lambda: asked("/live") == (200, "ok\n"))
        assert asked("/ready") == (503, "it has not started\n")


def test_a_worker_that_stands_still_is_not_live(
    sqlite_place: Place, port: int, asked: Callable[[str], tuple[int, str]]
) -> None:
    sqlite_place.write("app.py", APP)
    arguments = ("app", "--health-port", str(port), "--processes", "2", "--lease", "2")
    with sqlite_place.start("worker", *arguments) as worker:
        eventually(lambda: asked("/ready")[0] == 200, 40)
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGSTOP)
        eventually(lambda: "leases were not renewed" in asked("/live")[1], 40)
        os.kill(int(children[0]), signal.SIGCONT)
        eventually(lambda: asked("/live")[0] == 200)


def test_a_port_that_is_taken_is_said_in_one_line(sqlite_place: Place) -> None:
    sqlite_place.write("app.py", APP)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = sqlite_place.run("worker", "app", "--health-port", port)
    assert done.returncode == 1
    assert f"port {port} cannot be served: Address already in use" in done.stderr


def test_metrics_without_a_plugin_say_what_to_install(sqlite_place: Place) -> None:
    sqlite_place.write("app.py", APP)
    done = sqlite_place.run("worker", "app", "--metrics-port", "1", ASYNCTASQ_PLUGINS="")
    assert done.returncode == 1
    assert "pip install asynctasq-prometheus" in done.stderr


def test_systemd_hears_that_the_worker_is_ready_and_lives(sqlite_place: Place) -> None:
    place = sqlite_place
    place.write("app.py", APP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.path / "notify"))
        manager.settimeout(30)
        settings = {"NOTIFY_SOCKET": str(place.path / "notify"), "WATCHDOG_USEC": "300000"}
        with place.start("worker", "app", **settings):
            heard = []
            while "READY=1" not in heard:
                heard.append(manager.recv(100).decode())
            assert set(heard) <= {"WATCHDOG=1", "READY=1"}
            assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            place.python("import app; app.hog().dispatch_sync()")
            while (text := manager.recv(100).decode()) == "WATCHDOG=1":
                continue
            assert text == "STATUS=a task blocks the event loop"
            (place.path / "go_on").touch()
