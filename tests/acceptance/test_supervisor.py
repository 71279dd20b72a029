"""`asynctasq worker --processes N`: a family of workers that survives its members."""

from __future__ import annotations

import os
import re
import signal
import time

import psutil
import pytest

from .conftest import Place, eventually

# What the parent does does not depend on the broker, but for handing over a dead worker's tasks.
one_broker = pytest.mark.parametrize("place", ["sqlite"], indirect=True)

JOBS = """
import asyncio, os, time
from asynctasq import task

def write(name, text):
    with open(name, "a") as file:
        file.write(f"{text}\\n")

@task
async def note(n):
    await asyncio.sleep(0.02)
    write("notes", f"{n} {os.getpid()}")

@task
async def meet():
    write("met", os.getpid())
    while len(set(open("met").read().split())) < 2:
        await asyncio.sleep(0.01)

@task
async def slow(seconds):
    write("begun", os.getpid())
    await asyncio.sleep(seconds)
    write("ended", os.getpid())

@task
async def hog_loop():
    write("begun", os.getpid())
    time.sleep(60)

@task
def die():
    write("deaths", os.getpid())
    os._exit(3)

@task
async def hog_once():
    write("begun", os.getpid())
    if not os.path.exists("hogged"):
        write("hogged", os.getpid())
        await asyncio.sleep(60)
    write("ended", os.getpid())
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


def test_processes_share_the_work_and_burst_ends_when_all_is_done(place: Place) -> None:
    # Those that fill one process leave the rest to the other, for which they wait.
    dispatch(place, *["meet()"] * 10, *(f"note({n})" for n in range(200)))
    done = place.run("worker", "jobs", "--processes", "2", "--concurrency", "5", "--burst")
    assert done.returncode == 0, done.stderr
    notes = [line.split() for line in place.lines("notes")]
    assert sorted(int(n) for n, _ in notes) == list(range(200))
    assert len(set(place.lines("met"))) == 2
    assert "concurrency 5 in each of 2 processes" in done.stderr
    assert done.stderr.count("broker") == 1


def test_a_killed_worker_is_replaced_and_its_tasks_do_not_wait_for_the_lease(place: Place) -> None:
    dispatch(place, "hog_once()")
    with place.start("worker", "jobs", "--processes", "2", "--lease", "600") as parent:
        eventually(lambda: place.lines("begun"))
        victim = int(place.lines("begun")[0])
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: place.lines("ended"), 10)
        eventually(lambda: len(workers_of(parent.pid)) == 2)
        assert victim not in workers_of(parent.pid)
        parent.terminate()
        assert parent.wait(20) == 0
    assert "worker process died" in place.log()


def workers_of(parent: int) -> list[int]:
    return [p.pid for p in psutil.Process(parent).children()]


@one_broker
def test_sigterm_lets_running_tasks_finish(place: Place) -> None:
    dispatch(place, "slow(1)")
    with place.start("worker", "jobs", "--processes", "2") as parent:
        eventually(lambda: place.lines("begun"))
        parent.terminate()
        assert parent.wait(20) == 0
    assert len(place.lines("ended")) == 1
    assert place.counts() == {}


@one_broker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_parent_and_workers_alike_counts_once(
    place: Place, number: signal.Signals
) -> None:
    dispatch(place, "slow(1)")
    with place.start("worker", "jobs", "--processes", "2") as parent:
        eventually(lambda: place.lines("begun"))
        for pid in (*workers_of(parent.pid), parent.pid):
            os.kill(pid, number)
        assert parent.wait(20) == 0
    assert len(place.lines("ended")) == 1


@one_broker
def test_a_second_signal_skips_the_grace_time(place: Place) -> None:
    dispatch(place, "slow(60)")
    with place.start("worker", "jobs", "--processes", "2", "--grace", "60") as parent:
        eventually(lambda: place.lines("begun"))
        parent.terminate()
        time.sleep(0.3)  # two signals sent at once would be one
        parent.terminate()
        assert parent.wait(20) == 0
    assert place.counts() == {"waiting": 1}


def test_workers_stop_gracefully_when_their_parent_is_killed(place: Place) -> None:
    dispatch(place, "slow(1)")
    with place.start("worker", "jobs", "--processes", "2") as parent:
        eventually(lambda: place.lines("begun"))
        workers = workers_of(parent.pid)
        parent.kill()
    assert len(workers) == 2
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    assert len(place.lines("ended")) == 1
    assert place.counts() == {}


def test_a_worker_whose_loop_is_blocked_ends_too_when_its_parent_is_killed(place: Place) -> None:
    dispatch(place, "hog_loop()")
    arguments = ("--processes", "2", "--grace", "0.5", "--lease", "600")
    with place.start("worker", "jobs", *arguments) as parent:
        eventually(lambda: place.lines("begun"))
        workers = workers_of(parent.pid)
        parent.kill()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    assert place.counts() == {"waiting": 1}


@one_broker
def test_a_blocked_worker_ends_before_its_parent_would_kill_it(place: Place) -> None:
    dispatch(place, "hog_loop()")
    with place.start("worker", "jobs", "--processes", "2", "--grace", "0.5") as parent:
        eventually(lambda: place.lines("begun"))
        for pid in (*workers_of(parent.pid), parent.pid):
            os.kill(pid, signal.SIGTERM)
        assert parent.wait(9) == 0  # after 0.5 + 10 s the parent would
    assert "worker process killed" not in place.log()
    assert place.counts() == {"waiting": 1}


def test_a_task_that_kills_its_worker_ends_as_a_dead_letter_and_the_rest_goes_on(
    place: Place,
) -> None:
    dispatch(place, "die()", *(f"note({n})" for n in range(20)))
    with place.start("worker", "jobs", "--processes", "2", "--lease", "600") as parent:
        eventually(lambda: place.counts() == {"dead": 1}, 90)
        assert {line.split()[0] for line in place.lines("notes")} == set(map(str, range(20)))
        assert len(place.lines("deaths")) == 5  # max_deliveries
        pauses = [float(p) for p in re.findall(r"pause_seconds=(\S+)", place.log())]
        assert pauses[0] == 0
        assert max(pauses) > 0
        parent.terminate()
        assert parent.wait(20) == 0


@one_broker
def test_an_application_that_cannot_be_imported_ends_the_family(place: Place) -> None:
    place.write("broken.py", "raise RuntimeError('nothing works')")
    done = place.run("worker", "broken", "--processes", "2")
    assert done.returncode == 1
    assert "nothing works" in done.stderr


@one_broker
@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_annotation_that_cannot_be_told_ends_all_at_once(place: Place, processes: str) -> None:
    place.write("untold.py", "import asynctasq\n@asynctasq.task\ndef send(order: 'Ordr'): ...\n")
    done = place.run("worker", "untold", "--processes", processes)
    assert done.returncode == 1
    assert "Error: task untold.send: the annotation of 'order' cannot be resolved" in done.stderr
    assert "Traceback" not in done.stderr
    assert "died" not in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_broker_that_refuses_for_good_ends_all_at_once(place: Place, processes: str) -> None:
    place.settings |= unusable_broker(place)
    done = place.run("worker", "jobs", "--processes", processes)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert 1 <= len(errors) <= int(processes)
    assert "login" in errors[0] or "not a queue file" in errors[0]
    assert "Traceback" not in done.stderr
    assert "died" not in done.stderr


def unusable_broker(place: Place) -> dict[str, str]:
    """Settings under which the broker answers, but never as it should."""
    if place.settings["ASYNCTASQ_DRIVER"] == "redis":
        return {"ASYNCTASQ_REDIS_USERNAME": "nobody", "ASYNCTASQ_REDIS_PASSWORD": "wrong"}
    place.write("notes.db", "no database at all, but a text that is long enough\n" * 100)
    return {"ASYNCTASQ_SQLITE_PATH": "notes.db"}


@one_broker
def test_a_refusal_after_the_start_is_waited_for(place: Place) -> None:
    with place.start("worker", "jobs", "--processes", "2") as parent:
        eventually(lambda: len(place.status()["workers"]) == 2)
        file = place.path / ".asynctasq/queue.db"
        file.rename(place.path / "kept.db")
        for end in ("-wal", "-shm"):
            (file.parent / f"queue.db{end}").unlink()
        file.write_text("no database at all, but a text that is long enough\n" * 100)
        victim = workers_of(parent.pid)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: place.log().count("Error: ") >= 2)
        file.unlink()
        dispatch(place, "note(1)")
        eventually(lambda: place.lines("notes"))
        eventually(lambda: len(place.status()["workers"]) == 2, 60)
        parent.terminate()
        assert parent.wait(20) == 0


@one_broker
def test_without_modules_it_says_what_to_give(place: Place) -> None:
    done = place.run("worker", "--processes", "2")
    assert done.returncode == 2
    assert "asynctasq worker app.tasks" in done.stderr


@one_broker
def test_reload_runs_the_new_code(place: Place) -> None:
    with place.start("worker", "jobs", "--reload") as parent:
        dispatch(place, "note(1)")
        eventually(lambda: place.lines("notes"))
        place.write("jobs.py", JOBS.replace('f"{n} {os.getpid()}"', 'f"new {n}"'))

        def runs_new_code() -> bool:
            dispatch(place, "note(2)")
            return "new 2" in place.lines("notes")

        eventually(runs_new_code)
        parent.terminate()
        assert parent.wait(20) == 0


@one_broker
def test_reload_outlives_code_that_cannot_be_imported(place: Place) -> None:
    with place.start("worker", "jobs", "--reload") as parent:
        eventually(lambda: "concurrency 20" in place.log())
        place.write("jobs.py", "raise RuntimeError('half written')")
        eventually(lambda: "half written" in place.log())
        place.write("jobs.py", JOBS)
        dispatch(place, "note(1)")
        eventually(lambda: place.lines("notes"))
        parent.terminate()
        assert parent.wait(20) == 0
