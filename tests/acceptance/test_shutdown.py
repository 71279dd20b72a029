"""A worker process ends when it is told to, whatever its tasks do, and gives back what it ran."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from .conftest import Place, eventually

JOBS = """
import asyncio, multiprocessing, os, sys, time
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

def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

def begin():
    # Giving back is the last thing that a process does, so it may need a moment to be gone.
    for pid in set(open("begun").read().split()) if os.path.exists("begun") else ():
        until = time.monotonic() + 0.2
        while is_alive(pid) and time.monotonic() < until:
            time.sleep(0.005)
        if is_alive(pid):
            write("beside", pid)
    write("begun", os.getpid())

@task(timeout=0.3, retry_delay=0)
def past_its_timeout():
    begin()
    time.sleep(100)

@task(retry_delay=0)
async def in_a_thread():
    begin()
    await asyncio.to_thread(time.sleep, 100)

@task(timeout=0.3, retry_delay=0)
async def in_a_thread_past_its_timeout():
    begin()
    await asyncio.to_thread(time.sleep, 100)

@task
async def deaf_for_good():
    begin()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue

@task
async def pools():
    def fork():
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, 2])
    assert await asyncio.to_thread(fork) == [1, 2]
    write("pooled", 1)

@task
def forks_a_sleeper():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    write("begun", child.pid)
    child.terminate()
    child.join(10)
    write("terminated", child.exitcode)
    child.kill()

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


CALLS = ["past_its_timeout()", "in_a_thread()", "in_a_thread_past_its_timeout()", "deaf_for_good()"]


@pytest.mark.parametrize("call", CALLS)
def test_what_cannot_be_ended_is_given_back_when_its_process_ends(place: Place, call: str) -> None:
    dispatch(place, call)
    options = ("worker", "jobs", "--grace", "1", "--lease", "600")
    with place.start(*options) as first, place.start(*options) as second:
        eventually(lambda: place.lines("begun"))
        is_first = int(place.lines("begun")[0]) == first.pid
        holder, other = (first, second) if is_first else (second, first)
        holder.terminate()
        assert seconds_to_end(holder) < 15
        eventually(lambda: str(other.pid) in place.lines("begun"))
        other.kill()
    assert place.lines("beside") == []


@pytest.mark.parametrize(
    ("number", "is_waiting"),
    [(signal.SIGHUP, True), (signal.SIGQUIT, False)],
    ids=["SIGHUP", "SIGQUIT"],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_hangup_ends_a_worker_as_sigterm_does_and_quit_without_waiting(
    place: Place, number: signal.Signals, is_waiting: bool, processes: int
) -> None:
    dispatch(place, "slow(2)")
    options = ("--grace", "60", "--lease", "600", "--processes", str(processes))
    with place.start("worker", "jobs", *options) as worker:
        eventually(lambda: place.lines("begun"))
        worker.send_signal(number)
        seconds_to_end(worker)
    assert len(place.lines("ended")) == int(is_waiting)
    assert place.counts() == ({} if is_waiting else {"waiting": 1})


def test_a_worker_under_nohup_outlives_its_terminal(place: Place) -> None:
    code = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, '-m', 'asynctasq', 'worker', 'jobs'])"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=place.path, env=place.environment)
    try:
        eventually(lambda: place.status()["workers"])
        worker.send_signal(signal.SIGHUP)
        dispatch(place, "note(1)")
        eventually(lambda: place.lines("notes") == ["1"])
    finally:
        worker.kill()
        worker.wait()


def test_processes_that_a_task_forks_obey_signals(place: Place) -> None:
    dispatch(place, *["pools()"] * 10, "forks_a_sleeper()")
    done = place.run("worker", "jobs", "--burst", "--concurrency", "4", timeout=90)
    assert done.returncode == 0, done.stderr
    assert len(place.lines("pooled")) == 10
    assert place.lines("terminated") == [str(-signal.SIGTERM)]


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
    # Each shares its worker four times at most, and a message is given up after five.
    innocent = [f"note({n})" for n in range(40)]
    dispatch(
        place, *innocent[:5], "killer(1)", *innocent[5:20], "killer_on_loop(2)", *innocent[20:]
    )
    for _ in range(30):
        done = place.run("worker", "jobs", "--burst", "--lease", "2", "--concurrency", "10")
        if done.returncode == 0:
            break
    assert place.counts() == {"dead": 2}
    assert {int(n) for n in place.lines("notes")} == set(range(40))
    assert 2 <= len(place.lines("kills")) <= 10
