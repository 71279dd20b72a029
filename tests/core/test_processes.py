"""The pool of child processes: isolation, time limits, and ends with nothing left over."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from asynctasq.errors import TaskCrashed, TaskTimeout
from asynctasq.worker.child_logs import log_here
from asynctasq.worker.processes import ProcessPool

# What the children run. It cannot live in this file: children import it by its name.
CALLS = """
import ctypes, logging, multiprocessing, os, signal, subprocess, sys, time

def start(greeting):
    def call(body):
        return globals()[body.decode()](greeting or b"?")
    return call

def refuse(_):
    raise RuntimeError("cannot start")

def pid(_): return str(os.getpid()).encode()
def greet(greeting): return greeting
def leave(_): os._exit(7)
def kill(_): os.kill(os.getpid(), signal.SIGKILL)
def segfault(_): ctypes.string_at(0)
def sleep(_): time.sleep(60)
def spin(_):
    while True: pass
def nap(_): time.sleep(0.5); return b"rested"
def large(_): return b"x" * 30_000_000
def fds(_): return str(len(os.listdir("/proc/self/fd"))).encode()
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
def write_pid(process):
    with open("started", "w") as file:
        file.write(str(process.pid))
    return process
def starts_and_sleeps(_): write_pid(subprocess.Popen(SLEEP)); time.sleep(60)
def starts_and_dies(_): write_pid(subprocess.Popen(SLEEP)); os._exit(7)
def forks_and_dies(_):
    pid = os.fork()
    if not pid:
        os.setsid()  # out of the group: it keeps the socket open
        time.sleep(600)
    with open("started", "w") as file:
        file.write(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)
def starts_and_goes_on(_): write_pid(subprocess.Popen(SLEEP)); return b"ok"
def fork_dies_of_sigterm(_):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    return str(child.exitcode).encode()
def logs(_):
    logging.getLogger("app").info("too quiet")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("app").exception("heard of %s", "it", extra={"order": 7})
    return b""
def child_dies_of_sigterm(_):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.terminate()
    return str(child.wait(10)).encode()
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., bytes]]:
    (tmp_path / "pool_calls.py").write_text(CALLS)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("pool_calls", None)
    found: Callable[..., Callable[..., bytes]] = importlib.import_module("pool_calls").start
    return found


@pytest.fixture
async def pool(start: Callable[..., Callable[..., bytes]]) -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(2, start, b"hello")
    yield pool
    await pool.close()


async def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process has ended, or ends within this time."""
    deadline = time.monotonic() + seconds
    while _lives(pid):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def _lives(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        # Its first thread may have ended, as which it shows itself, while others still hold files.
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


async def test_a_call_runs_in_another_process_with_what_start_was_given(pool: ProcessPool) -> None:
    assert await pool.run(b"greet") == b"hello"
    assert int(await pool.run(b"pid")) != os.getpid()


async def test_a_child_is_started_once_and_used_again(pool: ProcessPool) -> None:
    assert await pool.run(b"pid") == await pool.run(b"pid")


async def test_calls_run_side_by_side_up_to_the_size(pool: ProcessPool) -> None:
    pids = await asyncio.gather(*(pool.run(b"pid") for _ in range(20)))
    assert 1 <= len(set(pids)) <= 2
    began = time.monotonic()
    assert {*await asyncio.gather(pool.run(b"nap"), pool.run(b"nap"))} == {b"rested"}
    assert time.monotonic() - began < 0.95


@pytest.mark.parametrize(
    ("call", "ending"),
    [(b"leave", "exited with code 7"), (b"kill", "SIGKILL"), (b"segfault", "SIGSEGV")],
)
async def test_a_crash_fails_its_own_call_alone(
    pool: ProcessPool, call: bytes, ending: str
) -> None:
    neighbour = asyncio.create_task(pool.run(b"nap"))
    with pytest.raises(TaskCrashed, match=ending):
        await pool.run(call)
    assert await neighbour == b"rested"
    assert await pool.run(b"greet") == b"hello"


def started(tmp_path: Path) -> int:
    """The process that a call has started."""
    file = tmp_path / "started"
    return int(file.read_text()) if file.exists() and file.read_text() else 0


async def until_started(tmp_path: Path) -> int:
    async with asyncio.timeout(20):
        while not (pid := started(tmp_path)):
            await asyncio.sleep(0.01)
    return pid


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of children."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "over its time"])
async def test_what_a_call_has_started_ends_with_it(
    here: Path, pool: ProcessPool, cancelled: bool
) -> None:
    await pool.run(b"greet")
    call = asyncio.create_task(pool.run(b"starts_and_sleeps", None if cancelled else 1))
    pid = await until_started(here)
    if cancelled:
        call.cancel()
    with pytest.raises((asyncio.CancelledError, TaskTimeout)):
        await call
    assert await gone(pid)


async def test_what_a_crashed_call_has_started_ends_with_it(here: Path, pool: ProcessPool) -> None:
    with pytest.raises(TaskCrashed, match="exited with code 7"):
        await pool.run(b"starts_and_dies")
    assert await gone(started(here))


async def test_what_a_call_that_went_well_has_started_goes_on(
    here: Path, pool: ProcessPool
) -> None:
    assert await pool.run(b"starts_and_goes_on") == b"ok"
    await pool.close()
    assert not await gone(started(here), 0.2)
    os.kill(started(here), signal.SIGKILL)


async def test_a_crash_is_noticed_although_a_fork_holds_the_connection(
    here: Path, pool: ProcessPool
) -> None:
    await pool.run(b"greet")
    began = time.monotonic()
    with pytest.raises(TaskCrashed, match="SIGKILL"):
        await pool.run(b"forks_and_dies")
    assert time.monotonic() - began < 5
    os.kill(started(here), signal.SIGKILL)


async def test_processes_that_a_call_forks_obey_signals(pool: ProcessPool) -> None:
    assert int(await pool.run(b"fork_dies_of_sigterm")) == -signal.SIGTERM


async def test_a_child_is_replaced_after_so_many_calls(
    start: Callable[..., Callable[..., bytes]],
) -> None:
    pool = ProcessPool(1, start, max_calls=2)
    pids = [await pool.run(b"pid") for _ in range(5)]
    assert len(set(pids)) == 3
    assert pids[0] == pids[1] != pids[2]
    assert await gone(int(pids[0]))
    await pool.close()
    assert await gone(int(pids[4]))


async def test_idle_children_end_after_a_while(
    start: Callable[..., Callable[..., bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynctasq.worker.processes.IDLE_SECONDS", 0.3)
    pool = ProcessPool(2, start)
    pids = {int(pid) for pid in await asyncio.gather(pool.run(b"pid"), pool.run(b"pid"))}
    assert all([await gone(pid) for pid in pids])
    assert await pool.run(b"greet") == b"?"
    await pool.close()


async def test_what_a_child_logs_is_logged_here(
    start: Callable[..., Callable[..., bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    pool = ProcessPool(1, start, log=log_here)
    await pool.run(b"logs")
    [record] = [r for r in caplog.records if r.name == "app"]
    assert (record.levelname, record.getMessage(), vars(record)["order"]) == (
        *("ERROR", "heard of it", 7),
    )
    assert "ZeroDivisionError" in (record.exc_text or "")
    assert record.process != os.getpid()
    await pool.close()


async def test_a_call_over_its_time_is_killed(pool: ProcessPool) -> None:
    child = int(await pool.run(b"pid"))
    with pytest.raises(TaskTimeout, match=r"longer than 0\.2 s"):
        await pool.run(b"spin", timeout_seconds=0.2)
    assert await gone(child)
    assert await pool.run(b"greet", timeout_seconds=10) == b"hello"


async def test_a_cancelled_call_is_killed(pool: ProcessPool) -> None:
    child = int(await pool.run(b"pid"))
    call = asyncio.create_task(pool.run(b"sleep"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await gone(child)


async def test_a_child_killed_while_idle_is_replaced_without_failing_a_call(
    pool: ProcessPool,
) -> None:
    child = int(await pool.run(b"pid"))
    os.kill(child, signal.SIGKILL)
    assert await gone(child)
    assert await pool.run(b"greet") == b"hello"


async def test_signals_to_the_child_do_not_interrupt_its_call(pool: ProcessPool) -> None:
    child = int(await pool.run(b"pid"))
    call = asyncio.create_task(pool.run(b"nap"))
    await asyncio.sleep(0.1)
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    assert await call == b"rested"


async def test_programs_started_by_a_call_still_obey_signals(pool: ProcessPool) -> None:
    assert int(await pool.run(b"child_dies_of_sigterm")) == -signal.SIGTERM


async def test_a_start_that_fails_is_an_error_of_the_call(
    start: Callable[..., Callable[..., bytes]], capfd: pytest.CaptureFixture[str]
) -> None:
    pool = ProcessPool(1, importlib.import_module("pool_calls").refuse)
    with pytest.raises(TaskCrashed, match="could not start"):
        await pool.run(b"greet")
    assert "cannot start" in capfd.readouterr().err
    await pool.close()


async def test_large_replies_arrive_whole(pool: ProcessPool) -> None:
    assert len(await pool.run(b"large")) == 30_000_000


async def test_closing_leaves_no_child_and_no_descriptor(
    start: Callable[..., Callable[..., bytes]],
) -> None:
    def open_here() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_here()
    for _ in range(3):
        pool = ProcessPool(2, start)
        children = set(await asyncio.gather(pool.run(b"pid"), pool.run(b"pid")))
        with pytest.raises(TaskCrashed):
            await pool.run(b"leave")
        await pool.close()
        assert all([await gone(int(child)) for child in children])
    assert open_here() == before


@pytest.mark.parametrize(
    "call",
    ["await pool.run(b'sleep')", "await asyncio.sleep(60)", "time.sleep(60)"],
    ids=["busy", "idle", "reply unread"],
)
async def test_children_end_with_a_killed_parent(
    start: Callable[..., Callable[..., bytes]], tmp_path: Path, call: str
) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, time, pool_calls
        from asynctasq.worker.processes import ProcessPool

        async def main():
            pool = ProcessPool(1, pool_calls.start)
            child = (await pool.run(b"pid")).decode()
            asyncio.create_task(pool.run(b"nap"))
            for _ in range(3):
                await asyncio.sleep(0)
            print(child, flush=True)
            {call}

        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        await asyncio.sleep(0.8)  # past the end of the nap, whose reply stays unread if it can
        parent.kill()
    assert await gone(child, 15)


async def test_latency_of_a_call_is_far_below_a_start(pool: ProcessPool) -> None:
    await pool.run(b"greet")
    began = time.perf_counter()
    for _ in range(100):
        await pool.run(b"greet")
    assert (time.perf_counter() - began) / 100 < 0.01
