"""SIGKILL at every step, where the queues are in the application's own database.

The programs are those of `test_guarantees_once`, but there is no outbox, and no table of what is
done: a message is put, and a delivery settled, in the application's transactions.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from asynctasq.sending import tables

from ..servers import postgres_database
from .deployments import Deployment, Forks
from .once_rounds import (
    CHAINS,
    OnceRound,
    create_tables,
    forks_of,
    kill_at_every_step,
    kill_at_random,
)
from .test_guarantees_once import kills

ROUNDS = int(os.environ.get("ASYNCTASQ_KILL_ROUNDS", "5"))
LANES = 2

#: Killed right after its last commit.
LEAVING_ONE = f"COMMIT of put_in_transaction|{CHAINS}|after"

#: What every program that begins chains does, and every worker that runs them, whatever its ORM is.
SENDING = {"INSERT chains", "put_in_transaction", "COMMIT of put_in_transaction"}
WORKING = {
    "start",
    "take",
    "renew",
    "SELECT chains",
    "UPDATE chains",
    "INSERT effects",
    "put_in_transaction",
    "COMMIT of put_in_transaction",
    "settle_in_transaction",
}


class JoinedRound(OnceRound):
    """An application whose queues are in its own database."""

    def __init__(self, folder: Path, forked: Forks, name: str, orm: str, url: str) -> None:
        settings = {
            "ASYNCTASQ_DRIVER": "postgres",
            "ASYNCTASQ_POSTGRES_URL": url,
            "ASYNCTASQ_POSTGRES_SCHEMA": "queues",
        }
        super().__init__(Deployment(folder, settings), forked, name, orm, url)
        del self.deployment.settings["ASYNCTASQ_OUTBOX"]

    def _has_kept(self) -> bool:
        return False


@asynccontextmanager
async def application_of(
    orm: str, folder: Path, forked: Forks, name: str
) -> AsyncIterator[JoinedRound]:
    """An application with its queues in a database of its own."""
    with postgres_database("asynctasq_joined") as url:
        create_tables(url)
        with psycopg.connect(url) as connection:
            connection.execute(f"DROP TABLE {tables.OUTBOX}, {tables.DONE}".encode())
        application = JoinedRound(folder, forked, name, orm, url)
        try:
            yield application
        finally:
            await application.end()


@pytest.fixture(params=["sqlalchemy", "django", "tortoise"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, Forks]]:
    """Of applications: an ORM, a folder, and what forks programs and workers."""
    with forks_of(request.param, Deployment(tmp_path, {})) as forked:
        yield request.param, tmp_path, forked


async def count_steps(application: JoinedRound) -> tuple[Counter[str], Counter[str]]:
    """Of a program that begins chains, and of a worker that runs them."""
    await application.ended(application.begin(kill_at=""))
    sent = application.steps()
    await application.settle(kill_at="")
    assert await application.check() == CHAINS
    return Counter(sent), Counter(application.steps()[len(sent) :])


@pytest.mark.timeout(300)
async def test_a_kill_at_any_step_neither_loses_nor_repeats(
    parts: tuple[str, Path, Forks],
) -> None:
    async with application_of(*parts, "counting") as application:
        sent, worked = await count_steps(application)
    assert sent.keys() >= SENDING
    assert worked.keys() >= WORKING

    opening = partial(application_of, *parts)
    await kill_at_every_step(opening, LANES, kills(sent), kills(worked), LEAVING_ONE)


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_kills_at_random_moments_neither_lose_nor_repeat(
    parts: tuple[str, Path, Forks],
) -> None:
    await kill_at_random(partial(application_of, *parts), LANES, ROUNDS)
