"""Rolling deploys: old and new workers at once, and calls from new code."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from .deployments import Deployment, eventually

OLD = """
import asyncio
import os
import time

from asynctasq import task


def note(what, number):
    with open("notes", "a") as file:
        file.write(f"{what} {number} {os.getpid()} {time.time()} whole\\n")


@task
async def work(number):
    note("work", number)
"""

#: A new task, a new argument, and one of a new class.
NEW = (
    OLD.replace("async def work(number):", "async def work(number, extra=None, item=None):")
    + """
from dataclasses import dataclass


@dataclass
class Item:
    name: str


@task
async def take(number, item: Item):
    note("take", number)


@task
def added(number):
    note("added", number)
"""
)

CALLS = ("work({0})", "work({0}, extra=1)", "added({0})", "take({0}, Item('new'))")

#: Longest time for which what an old worker did not know is left alone after it is gone.
LATE_SECONDS = 12.0


@pytest.fixture
def code(deployment: Deployment) -> dict[str, str]:
    """Where the code is before and after the deploy, as `PYTHONPATH`."""
    folders = {"old": OLD, "new": NEW}
    for name, text in folders.items():
        (deployment.path / name).mkdir()
        (deployment.path / name / "fault_tasks.py").write_text(text)
    return {name: str(deployment.path / name) for name in folders}


def test_a_rolling_deploy_loses_nothing_and_is_soon_over(
    deployment: Deployment, code: dict[str, str]
) -> None:
    old = deployment.start_worker(PYTHONPATH=code["old"])
    calls = [call.format(number) for number in range(10) for call in CALLS]
    deployment.dispatch(*calls, PYTHONPATH=code["new"])
    eventually(lambda: deployment.log().count("task postponed") >= 30)
    deployment.start_worker(PYTHONPATH=code["new"])
    eventually(lambda: deployment.times("added"))
    more = [call.format(number) for number in range(10, 40) for call in CALLS]
    deployment.dispatch(*more, PYTHONPATH=code["new"])
    old.terminate()
    assert old.wait(30) == 0
    gone = time.time()
    eventually(lambda: not deployment.counts())
    done = Counter((note.what, note.number) for note in deployment.notes())
    expected = {("work", n): 2 for n in range(40)}
    expected |= {(what, n): 1 for what in ("added", "take") for n in range(40)}
    assert done == expected
    assert max(note.at for note in deployment.notes()) - gone < LATE_SECONDS
    known = {note.pid for note in deployment.notes() if note.what in ("added", "take")}
    assert old.pid not in known
