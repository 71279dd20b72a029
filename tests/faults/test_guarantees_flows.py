"""SIGKILL at every call of the broker while chains and a batch run: no link is lost, none doubled.

A link that ran when its worker was killed runs again, as every task does, by a second delivery of
its message. A link that was put twice would have two messages, and two first deliveries.
"""

from __future__ import annotations

from collections import Counter

import pytest

from .deployments import Deployment, Forks
from .test_guarantees_kills import Round, forked, is_alive, side_by_side

__all__ = ["forked"]

CHAINS, PARTS = 2, 3
LINKS = ("first", "second", "third")

DISPATCH = f"""
import asynctasq

async def send():
    await asynctasq.dispatch_many([
        link(n, "first").then(link, "second").then(link, "third") for n in range({CHAINS})
    ])
    parts = [link(100 + n, "part") for n in range({PARTS})]
    await asynctasq.Batch(parts, then=fan_in).dispatch()

asyncio.run(send())
"""

#: What is asked of a broker for flows; the services of a worker ask some of it, too.
BROKER_CALLS = "replace_value,set_value,delete_values"


async def dispatch(round_: Round, forks: Forks) -> None:
    sender = forks.run_with_tasks(round_.deployment, DISPATCH)
    await round_.until(lambda: not is_alive(sender))


async def count_calls(deployment: Deployment, forks: Forks) -> int:
    """How many calls a worker makes that is not killed."""
    round_ = Round(deployment, forks, "counting")
    await dispatch(round_, forks)
    pid = round_.start_worker("--burst", FAULT_KILL_AT="", FAULT_BROKER_CALLS=BROKER_CALLS)
    await round_.until(lambda: not is_alive(pid))
    calls = (round_.deployment.path / "calls").read_text().split()
    assert {"settle", "replace_value"} <= set(calls)
    await round_.end()
    return len(calls)


async def killed_at(deployment: Deployment, forks: Forks, number: int, when: str) -> None:
    round_ = Round(deployment, forks, f"{when}-{number}")
    try:
        await dispatch(round_, forks)
        doomed = round_.start_worker(
            "--burst", FAULT_KILL_AT=f"{number}:{when}", FAULT_BROKER_CALLS=BROKER_CALLS
        )
        await round_.until(lambda: not is_alive(doomed))
        heir = round_.start_worker("--burst")
        await round_.until(lambda: not is_alive(heir))
        check(round_.deployment, f"{when} call {number}")
    finally:
        await round_.end()


def check(deployment: Deployment, where: str) -> None:
    notes = Counter((note.what, note.number) for note in deployment.notes())
    calls = [(name, chain) for chain in range(CHAINS) for name in LINKS]
    calls += [("part", 100 + n) for n in range(PARTS)]
    calls.append(("fan_in", sum(100 + n for n in range(PARTS))))
    for name, number in calls:
        first, again = notes[name, number], notes[f"{name}-again", number]
        assert first + again >= 1, (where, name, number, deployment.log()[-3000:])
        assert first <= 1, (where, name, number)  # else there were two messages
        assert again <= 1, (where, name, number)
    known = {*calls, *((f"{name}-again", number) for name, number in calls)}
    assert set(notes) <= known, where


@pytest.mark.timeout(900)
async def test_a_kill_at_any_step_of_a_chain_or_a_batch_loses_and_doubles_no_link(
    deployment: Deployment, forked: Forks
) -> None:
    calls = await count_calls(deployment, forked)
    await side_by_side(
        [
            lambda number=number, when=when: killed_at(deployment, forked, number, when)  # type: ignore[misc]
            for number in range(1, calls + 2)
            for when in ("before", "after")
        ]
    )
