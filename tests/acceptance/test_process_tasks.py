"""`@task(process=True)` as a user meets it: a crash, a time limit, a stop."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from .conftest import Place, eventually, finished

JOBS = """
import logging, os, subprocess, sys, time
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

@task(process=True)
def starts_a_program():
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write("begun", os.getpid())
    write("started", program.pid)
    time.sleep(600)

@task(process=True)
def logs(order):
    logging.getLogger("app").warning("about to charge %s", order)

@task(process=True, max_attempts=1)
def fails():
    raise ValueError("as always")

@task
async def hogs_the_loop():
    write("hogging", 1)
    time.sleep(100)

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


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL", "blocked"])
def test_what_a_process_task_has_started_ends_with_its_worker(place: Place, ending: str) -> None:
    dispatch(place, "[starts_a_program()]")
    with place.start("worker", "jobs", "--grace", "0.2", "--lease", "600") as worker:
        eventually(lambda: place.lines("started"))
        if ending == "blocked":
            dispatch(place, "[hogs_the_loop()]")
            eventually(lambda: place.lines("hogging"))
        worker.send_signal(signal.SIGKILL if ending == "SIGKILL" else signal.SIGTERM)
        worker.wait(30)
        if ending != "SIGKILL":
            assert place.counts() == {"waiting": 1 + (ending == "blocked")}
            assert not is_running(int(place.lines("started")[0]))
    eventually(lambda: not is_running(int(place.lines("started")[0])), 2)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_children_are_bounded_and_replaced(place: Place) -> None:
    dispatch(place, "[nap(0.1) for _ in range(8)]")
    options = ("--burst", "--concurrency", "8", "--children", "2", "--max-tasks-per-child", "2")
    finished(place.run("worker", "jobs", *options))
    pids = place.lines("ended")
    assert len(pids) == 8
    assert max(pids.count(pid) for pid in pids) == 2
    assert 4 <= len(set(pids)) <= 5  # the last two may have two children


def test_a_process_logs_as_its_worker_does(place: Place) -> None:
    dispatch(place, "[logs(7), fails()]")
    done = place.run("worker", "jobs", "--burst", "--log-format", "json")
    records = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    [record] = [r for r in records if r["logger"] == "app"]
    assert (record["message"], record["level"]) == ("about to charge 7", "warning")
    assert (record["task"], record["attempt"]) == ("jobs.logs", 1)
    [dead] = [r for r in records if r["message"] == "task dead"]
    assert "ValueError: as always" in dead["traceback"]
    assert "in fails" in dead["traceback"]
