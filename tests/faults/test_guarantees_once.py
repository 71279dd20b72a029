"""SIGKILL at every step of a chain of atomic tasks: its effects are in the database exactly once.

A step is a statement, a commit, or a call of the broker, in the program that begins the chains and
in the worker; one is killed just before and just after each. Whether it had committed tells the
database alone: every chain that is there comes to its end, and nothing else is there.

Programs and workers are forks that have their imports behind them, and what one leaves is left to
the next, which is killed as well: so there is a kill in a fraction of a second.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from asynctasq.sending import tables

from .deployments import Deployment, Forks
from .once_rounds import (
    CHAINS,
    LEAVING_ONE,
    LENGTH,
    OnceRound,
    application_of,
    forks_of,
    kill_at_every_step,
    kill_at_random,
)

ROUNDS = int(os.environ.get("ASYNCTASQ_KILL_ROUNDS", "5"))

#: Applications side by side, since waiting is a large part of each.
LANES = 3

#: What every program that begins chains does, and every worker that runs them, whatever its ORM is.
SENDING = {
    "INSERT chains",
    f"INSERT {tables.OUTBOX}",
    f"COMMIT of INSERT {tables.OUTBOX}",
    "put",
}
WORKING = {
    "start",
    "take",
    "renew",
    "SELECT chains",
    f"SELECT {tables.DONE}",
    "UPDATE chains",
    "INSERT effects",
    f"INSERT {tables.OUTBOX}",
    f"INSERT {tables.DONE}",
    f"UPDATE {tables.DONE}",
    "put",
    "settle",
    f"DELETE {tables.OUTBOX}",
    f"COMMIT of DELETE {tables.OUTBOX}",
    f"SELECT {tables.OUTBOX}",
    f"SELECT {tables.OUTBOX} SKIP LOCKED",
    "put by the relay",
}

#: Each adapter and each broker at least once.
APPLICATIONS = [
    ("sqlalchemy", "redis"),
    ("sqlalchemy", "postgres"),
    ("django", "sqlite"),
    ("tortoise", "redis"),
]


@pytest.fixture(params=APPLICATIONS, ids="-".join)
def parts(request: pytest.FixtureRequest) -> Iterator[tuple[str, Deployment, Forks]]:
    """Of applications: an ORM, a deployment, and what forks its programs and workers."""
    orm, broker = request.param
    deployment: Deployment = request.getfixturevalue(f"{broker}_deployment")
    with forks_of(orm, deployment) as forked:
        yield orm, deployment, forked


async def count_steps(application: OnceRound) -> tuple[Counter[str], Counter[str]]:
    """Of a program that begins chains, and of a worker to which another left one to be sent."""
    await application.ended(application.begin(kill_at=""))
    sent = application.steps()
    assert await application.ended(application.begin(LEAVING_ONE))
    await application.settle(kill_at="")
    assert await application.check() == 2 * CHAINS
    return Counter(sent), Counter(application.steps()[len(sent) :])


def kills(steps: Counter[str]) -> list[str]:
    """Before the first of each kind, and after it where it changes anything; twice for commits."""
    return [
        f"{step}|{number}|{when}"
        for step, times in steps.items()
        for number in ((1, 2) if "COMMIT" in step and times >= CHAINS * LENGTH else (1,))
        for when in ("before", *(() if "SELECT" in step else ("after",)))
    ]


@pytest.mark.timeout(300)
async def test_a_kill_at_any_step_leaves_every_effect_once(
    parts: tuple[str, Deployment, Forks],
) -> None:
    async with application_of(*parts, "counting") as application:
        sent, worked = await count_steps(application)
    assert sent.keys() >= SENDING
    assert worked.keys() >= WORKING

    opening = partial(application_of, *parts)
    await kill_at_every_step(opening, LANES, kills(sent), kills(worked), LEAVING_ONE)


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_kills_at_random_moments_leave_every_effect_once(
    parts: tuple[str, Deployment, Forks],
) -> None:
    await kill_at_random(partial(application_of, *parts), LANES, ROUNDS)
