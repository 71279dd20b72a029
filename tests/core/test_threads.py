"""Functions in threads: interrupted when cancelled, but for those that have ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from asynctasq.errors import TaskTimeout
from asynctasq.worker.threads import run_in_thread


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


async def test_the_value_or_the_error_comes_back(threads: ThreadPoolExecutor) -> None:
    assert await run_in_thread(threads, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(threads, lambda: 1 / 0)


async def test_cancelling_interrupts_and_waits_for_the_end(threads: ThreadPoolExecutor) -> None:
    begun, ended = threading.Event(), threading.Event()

    def spin() -> None:
        try:
            begun.set()
            while True:
                sum(range(100))
        finally:
            ended.set()

    running = asyncio.create_task(run_in_thread(threads, spin))
    await asyncio.to_thread(begun.wait, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
    assert await run_in_thread(threads, lambda: "the thread is as before") is not None


def test_functions_can_be_profiled_after_one_was_interrupted() -> None:
    """In a process of its own: what hangs in CPython itself, no timeout of a test would end."""
    code = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
from asynctasq.worker.threads import run_in_thread

begun = threading.Event()

def spin():
    begun.set()
    while True:
        sum(range(100))

async def interrupt():
    with ThreadPoolExecutor(1) as threads:
        running = asyncio.create_task(run_in_thread(threads, spin))
        await asyncio.to_thread(begun.wait, 10)
        running.cancel()
        await asyncio.wait([running])

asyncio.run(interrupt())
sys.setprofile(lambda *event: None)
(lambda: None)()
sys.setprofile(None)
print("profiled")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("profiled\n", "")


async def test_what_has_ended_is_not_cancelled_any_more(threads: ThreadPoolExecutor) -> None:
    ended = threading.Event()

    def work() -> str:
        return "done"

    running = asyncio.create_task(run_in_thread(threads, work))
    await asyncio.sleep(0)
    threads.submit(ended.set)  # the only thread is free again
    ended.wait(10)
    running.cancel()
    assert await running == "done"


async def test_what_has_not_begun_never_begins(threads: ThreadPoolExecutor) -> None:
    proceed = threading.Event()
    ran: list[int] = []
    first = asyncio.create_task(run_in_thread(threads, lambda: proceed.wait(10)))
    second = asyncio.create_task(run_in_thread(threads, lambda: ran.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await first is True
    assert ran == []


async def test_an_interruption_never_reaches_the_next_function_of_the_thread(
    threads: ThreadPoolExecutor,
) -> None:
    async def cancelled_at(steps: int) -> None:
        running = asyncio.create_task(run_in_thread(threads, lambda: sum(range(steps))))
        await asyncio.sleep(0)
        running.cancel()
        try:
            await running
        except (asyncio.CancelledError, TaskTimeout):
            return

    for steps in range(0, 20_000, 100):
        await cancelled_at(steps)
        assert await run_in_thread(threads, lambda: sum(range(1000))) == 499_500
