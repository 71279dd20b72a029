"""SIGKILL of the worker that makes ticks, at every call of the broker: each tick has one call."""

from __future__ import annotations

from collections import Counter

import pytest

from .deployments import Deployment, Forks
from .test_guarantees_kills import Round, forked, is_alive, side_by_side

__all__ = ["forked"]

#: Calls of a leader before which, and after which, it is killed: its start, and some of its turns.
CALLS = 14

#: What the service of schedules asks of a broker.
BROKER_CALLS = "lead,value,values,set_value,replace_value"

SCHEDULE = """
import asynctasq
from datetime import timedelta

asyncio.run(asynctasq.schedule(tick(), name="beat", every=timedelta(seconds=1), catch_up="all"))
"""


async def killed_at(deployment: Deployment, forks: Forks, number: int, when: str) -> None:
    round_ = Round(deployment, forks, f"{when}-{number}")
    try:
        sender = forks.run_with_tasks(round_.deployment, SCHEDULE)
        await round_.until(lambda: not is_alive(sender))
        doomed = round_.start_worker(
            FAULT_KILL_AT=f"{number}:{when}",
            FAULT_CONSUMER_CALLS="",
            FAULT_BROKER_CALLS=BROKER_CALLS,
        )
        await round_.until(lambda: not is_alive(doomed))
        before = len(ticks(round_.deployment))
        round_.start_worker()
        round_.start_worker()
        await round_.until(lambda: len(ticks(round_.deployment)) >= before + 3)
        check(round_.deployment, f"{when} call {number}")
    finally:
        await round_.end()


def ticks(deployment: Deployment) -> set[int]:
    return {note.number for note in deployment.notes() if note.what in ("tick", "tick-again")}


def check(deployment: Deployment, where: str) -> None:
    runs = Counter((note.what, note.number) for note in deployment.notes())
    made = ticks(deployment)
    # The last may be under way still.
    assert made >= set(range(min(made), max(made))), (where, sorted(made))
    assert all(runs["tick", tick] <= 1 for tick in made), (where, runs)  # else two messages


@pytest.mark.timeout(600)
async def test_a_leader_killed_at_any_call_of_the_broker_loses_no_tick_and_doubles_none(
    deployment: Deployment, forked: Forks
) -> None:
    await side_by_side(
        [
            lambda number=number, when=when: killed_at(deployment, forked, number, when)  # type: ignore[misc]
            for number in range(1, CALLS + 1)
            for when in ("before", "after")
        ]
    )
