"""A worker process ends when it is told to, whatever its tasks do, and gives back what it ran."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from .conftest import Place, eventually

JOBS = """
import asyncio, os, time
from asynctasq import current_message, task

def write(name, text):
    with open(name, "a") as file:
        file.write(f"{text}\\n")

@task(max_attempts=1)
async def slow(seconds):
    write("begun", current_message().attempt)
    await asyncio.sleep(seconds)
    write("ended", os.getpid())

@task
async def deaf():
    write("begun", 1)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue

@task
def deaf_thread():
    write("begun", 1)
    while True:
        try:
            time.sleep(0.05)
        except Exception:
            continue

@task
def stuck_thread():
    write("begun", 1)
    time.sleep(60)

@task
def thread():
    write("begun", 1)
    time.sleep(1)
    write("ended", 1)

@task
async def loop_hog():
    write("begun", 1)
    time.sleep(1.5)
    write("ended", 1)

@task
async def note(n):
    write("notes", n)

@task
def killer(n):
    write("kills", n)
    os._exit(9)

@task
async def killer_on_loop(n):
    write("kills", n)
    await asyncio.sleep(0)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def jobs(place: Place) -> None:
    place.write("jobs.py", JOBS)


def dispatch(place: Place, *calls: str) -> None:
    for_all = ", ".join(calls)
    place.python(
        f"import asyncio, asynctasq\nfrom jobs import *\n"
        f"asyncio.run(asynctasq.dispatch_many([{for_all}]))"
    )


def seconds_to_end(worker: subprocess.Popen[bytes]) -> float:
    before = time.monotonic()
    assert worker.wait(30) == 0
    return time.monotonic() - before


@pytest.mark.parametrize("call", ["slow(1)", "thread()", "loop_hog()"])
def test_a_signal_lets_running_tasks_finish(place: Place, call: str) -> None:
    dispatch(place, call)
    with place.start("worker", "jobs") as worker:
        eventually(lambda: place.lines("begun"))
        worker.terminate()
        seconds_to_end(worker)
    assert len(place.lines("ended")) == 1
    assert place.counts() == {}


@pytest.mark.parametrize("call", ["slow(60)", "deaf()", "deaf_thread()", "stuck_thread()"])
def test_what_outlives_the_grace_time_is_given_back_and_holds_nobody(
    place: Place, call: str
) -> None:
    dispatch(place, call)
    with place.start("worker", "jobs", "--grace", "0.3", "--lease", "600") as worker:
        eventually(lambda: place.lines("begun"))
        worker.terminate()
        assert seconds_to_end(worker) < 10
    assert place.counts() == {"waiting": 1}
    assert place.lines("ended") == []


def test_a_second_signal_skips_the_grace_time(place: Place) -> None:
    dispatch(place, "slow(60)")
    with place.start("worker", "jobs", "--grace", "60") as worker:
        eventually(lambda: place.lines("begun"))
        worker.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals sent at once would be one
        worker.send_signal(signal.SIGINT)
        assert seconds_to_end(worker) < 10
    assert place.counts() == {"waiting": 1}


def test_what_was_given_back_uses_up_no_attempt_and_no_delivery(place: Place) -> None:
    dispatch(place, "slow(60)")
    for times in range(1, 8):
        with place.start("worker", "jobs", "--grace", "0") as worker:
            eventually(lambda times=times: len(place.lines("begun")) == times)  # type: ignore[misc]
            worker.terminate()
            seconds_to_end(worker)
    assert place.lines("begun") == ["1"] * 7
    assert place.counts() == {"waiting": 1}


@pytest.mark.timeout(300)
def test_several_tasks_that_kill_their_worker_take_no_innocent_one_with_them(
    place: Place,
) -> None:
    # Each shares its worker twice at most, and a message is given up after five.
    innocent = [f"note({n})" for n in range(40)]
    dispatch(
        place, *innocent[:5], "killer(1)", *innocent[5:20], "killer_on_loop(2)", *innocent[20:]
    )
    for _ in range(30):
        done = place.run("worker", "jobs", "--burst", "--lease", "0.5", "--concurrency", "10")
        if done.returncode == 0:
            break
    assert place.counts() == {"dead": 2}
    assert {int(n) for n in place.lines("notes")} == set(range(40))
    assert 2 <= len(place.lines("kills")) <= 10
