"""`@task(process=True)` as a user meets it: a crash, a time limit, a stop."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from .conftest import Place, eventually, finished

JOBS = """
import os, time
from asynctasq import task

def write(name, text):
    with open(name, "a") as file:
        file.write(f"{text}\\n")

@task(process=True, max_attempts=1)
def crash():
    os._exit(3)

@task(process=True)
def nap(seconds):
    write("begun", os.getpid())
    time.sleep(seconds)
    write("ended", os.getpid())

@task(process=True, max_attempts=1, timeout=0.3)
def spin():
    while True:
        pass

@task
async def here():
    write("here", os.getpid())
"""


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    sqlite_place.write("jobs.py", JOBS)
    return sqlite_place


def dispatch(place: Place, calls: str) -> None:
    place.python(
        f"import asyncio, asynctasq\nfrom jobs import *\n"
        f"asyncio.run(asynctasq.dispatch_many({calls}))"
    )


def test_a_crash_and_a_time_limit_fail_their_own_task_alone(place: Place) -> None:
    dispatch(place, "[nap(1), crash(), spin(), here(), nap(0)]")
    finished(place.run("worker", "jobs", "--burst", "--concurrency", "4"))
    assert len(place.lines("ended")) == 2
    assert len(place.lines("here")) == 1
    letters = json.loads(finished(place.run("dead", "list", "--json")))
    errors = {letter["task"]: letter["error"] for letter in letters}
    assert "exited with code 3" in errors.pop("jobs.crash")
    assert "longer than 0.3 s" in errors.pop("jobs.spin")
    assert errors == {}


def test_modules_that_only_the_configuration_names_are_there_too(place: Place) -> None:
    place.write("configured.py", "import asynctasq\nasynctasq.init(imports=['jobs'])\n")
    dispatch(place, "[nap(0)]")
    finished(place.run("worker", "configured", "--burst"))
    assert len(place.lines("ended")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_worker_and_children_alike_lets_them_finish(
    place: Place, number: signal.Signals
) -> None:
    dispatch(place, "[nap(1)]")
    with place.start("worker", "jobs") as worker:
        eventually(lambda: place.lines("begun"))
        children = psutil.Process(worker.pid).children(recursive=True)
        for pid in [*(child.pid for child in children), worker.pid]:
            os.kill(pid, number)
        assert worker.wait(20) == 0
    assert len(place.lines("ended")) == 1
    assert place.counts() == {}


def test_the_end_of_the_grace_time_gives_the_task_back_and_leaves_no_child(place: Place) -> None:
    dispatch(place, "[nap(60)]")
    with place.start("worker", "jobs", "--grace", "0.2") as worker:
        eventually(lambda: place.lines("begun"))
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.terminate()
        assert worker.wait(20) == 0
    assert not any(child.is_running() for child in children)
    assert place.counts() == {"waiting": 1}


def test_children_end_with_a_killed_worker(place: Place) -> None:
    dispatch(place, "[nap(60)]")
    with place.start("worker", "jobs") as worker:
        eventually(lambda: place.lines("begun"))
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
    assert children
    eventually(lambda: not any(child.is_running() for child in children))
