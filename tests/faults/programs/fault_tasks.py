"""Tasks that note what they do, kill their process, block it, or fail."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import time

from asynctasq import Retry, current_message, task
from asynctasq.tasks.current import current_run
from asynctasq.worker.jobs import Job


def note(what: str, number: int) -> None:
    """Append a line in one step; a kill in the middle leaves it without its last word."""
    line = f"{what} {number} {os.getpid()} {time.time()} whole\n"
    with open("notes", "a") as file:
        file.write(line)


@task
async def work(number: int, seconds: float = 0.0) -> int:
    """Take some time, as a good task does."""
    note("began", number)
    if seconds:
        await asyncio.sleep(seconds)
    note("ended", number)
    return number


@task(result_ttl=600)
async def kept(number: int) -> int:
    """A task whose result is kept."""
    note("began", number)
    note("ended", number)
    return number


@task
async def block_loop(number: int, seconds: float) -> None:
    """Block the event loop without using the processor."""
    note("began", number)
    time.sleep(seconds)
    note("ended", number)


@task
async def burn_loop(number: int, seconds: float) -> None:
    """Block the event loop by computing."""
    burn(number, seconds)


@task
def burn_thread(number: int, seconds: float) -> None:
    """Compute in a thread."""
    burn(number, seconds)


@task(process=True)
def burn_process(number: int, seconds: float) -> None:
    """Compute in a child process."""
    burn(number, seconds)


def burn(number: int, seconds: float) -> None:
    """Compute in pure Python for so long."""
    note("began", number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))
    note("ended", number)


@task(retry_delay=0.2, retry_jitter=False, max_attempts=2)
async def fail_once(number: int) -> None:
    """Fail at the first attempt, end at the second."""
    note("began", number)
    if current_message().attempt == 1:
        raise ValueError("the first attempt")
    note("ended", number)


@task(max_attempts=1)
async def fail(number: int) -> None:
    """Fail for good."""
    note("began", number)
    raise ValueError("always")


@task(max_attempts=3)
async def ask_again(number: int) -> None:
    """Ask to be retried at once, once."""
    note("began", number)
    if current_message().attempt == 1:
        raise Retry(delay=0)
    note("ended", number)


@task
async def link(number: int, name: str) -> int:
    """A part of a chain or a batch; notes whether it runs for the first time."""
    note(f"{name}{again()}", number)
    return number


@task
async def fan_in(numbers: list[int]) -> None:
    """What follows a batch."""
    note(f"fan_in{again()}", sum(numbers))


def again() -> str:
    """Nothing at the first delivery of a message."""
    run = current_run.get()
    assert isinstance(run, Job)
    return "-again" if run.delivery.deliveries > 1 else ""


@task
async def fail_in_the_first_process(number: int, seconds: float) -> None:
    """In the process that runs it first: wait, then ask for a retry a day later. In others: end."""
    note("began", number)
    try:
        with open(f"first-{number}", "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        note("ended", number)
        return
    await asyncio.sleep(seconds)
    note("late", number)
    raise Retry(delay=86400)


def die(how: str) -> None:
    """End this process in one of the ways in which processes end."""
    if how == "exit":
        os._exit(3)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
    elif how == "abort":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()


@task
async def kill_loop(number: int, how: str) -> None:
    """Kill the worker from its event loop."""
    note("killed", number)
    die(how)


@task
def kill_thread(number: int, how: str) -> None:
    """Kill the worker from a thread."""
    note("killed", number)
    die(how)


@task(process=True, max_attempts=1)
def kill_child(number: int, how: str) -> None:
    """Kill a child process."""
    note("killed", number)
    die(how)


@task(max_attempts=1)
def exhaust_memory(number: int) -> None:
    """Ask for more memory than the process may have."""
    note("began", number)
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, resource.RLIM_INFINITY))
    try:
        bytearray(64 * 2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
