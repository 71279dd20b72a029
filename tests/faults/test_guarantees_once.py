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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from asynctasq.sending import tables

from ..servers import mysql_database, postgres_database
from .deployments import Deployment
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

#: Each adapter, broker and kind of database at least once.
APPLICATIONS = [
    ("sqlalchemy", "redis", "postgresql"),
    ("sqlalchemy", "postgres", "postgresql"),
    ("django", "sqlite", "postgresql"),
    ("tortoise", "redis", "postgresql"),
    ("sqlalchemy", "redis", "mariadb"),
]

#: Killed at random moments only, as the last of them is at its steps only.
MORE = [("django", "sqlite", "mariadb"), ("tortoise", "redis", "mariadb")]

DATABASES = {"postgresql": postgres_database, "mariadb": mysql_database}

#: Opens an application with a name of its own.
Open = Callable[[str], AbstractAsyncContextManager[OnceRound]]


def joined(parts: Sequence[str]) -> str:
    return "-".join(parts)


@pytest.fixture
def open_one(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens applications of one kind, whose programs and workers are forks."""
    orm, broker, database = request.param
    deployment: Deployment = request.getfixturevalue(f"{broker}_deployment")
    with forks_of(orm, deployment) as forked:
        yield lambda name: application_of(orm, deployment, forked, name, DATABASES[database])


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
@pytest.mark.parametrize("open_one", APPLICATIONS, ids=joined, indirect=True)
async def test_a_kill_at_any_step_leaves_every_effect_once(open_one: Open) -> None:
    async with open_one("counting") as application:
        sent, worked = await count_steps(application)
    assert sent.keys() >= SENDING
    assert worked.keys() >= WORKING

    await kill_at_every_step(open_one, LANES, kills(sent), kills(worked), LEAVING_ONE)


@pytest.mark.timeout(60 + 20 * ROUNDS)
@pytest.mark.parametrize("open_one", APPLICATIONS[:4] + MORE, ids=joined, indirect=True)
async def test_kills_at_random_moments_leave_every_effect_once(open_one: Open) -> None:
    await kill_at_random(open_one, LANES, ROUNDS)


#: Where children are killed, and where their worker is, of which they may hear later.
CHILDS_KILLS = [
    "UPDATE chains|after",
    f"INSERT {tables.DONE}|after",
    f"COMMIT of INSERT {tables.OUTBOX}|before",
    f"COMMIT of INSERT {tables.OUTBOX}|after",
    f"COMMIT of UPDATE {tables.DONE}|after",
]
PARENTS_KILLS = [f"INSERT {tables.DONE}|parent", f"COMMIT of UPDATE {tables.DONE}|parent"]


@pytest.mark.timeout(240)
async def test_kills_of_children_and_of_their_worker_leave_every_effect_once(
    redis_deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCE_PROCESS", "yes")
    kills = CHILDS_KILLS + PARENTS_KILLS
    with forks_of("django", redis_deployment) as forked:
        async with application_of("django", redis_deployment, forked, "kids") as application:
            await application.ended(application.begin(chains=4))
            pid = application.start(FAULT_KILL_ONCE_AT=";".join(kills))
            for _ in PARENTS_KILLS:
                await application.ended(pid)
                pid = application.start(FAULT_KILL_ONCE_AT=";".join(kills))
            await application.settled()
            assert await application.check() == 4
            path = application.deployment.path
            assert {p.name for p in path.glob("killed at *")} == {f"killed at {k}" for k in kills}
