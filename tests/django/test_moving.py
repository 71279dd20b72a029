"""The admin's buttons for all dead letters, which move as many as a request has time for."""

from __future__ import annotations

import asyncio

import asynctasq
import pytest
from asynctasq import Worker, deadletters, dispatch_many_sync, task
from asynctasq.deadletters import Filter
from asynctasq.looking import queues, run_sync
from asynctasq_django import moving

#: More than are moved at once.
MANY = 1100


@task(queue="refused", max_attempts=1)
async def refuse() -> None:
    raise ValueError


def dead() -> int:
    return sum(queue.dead for queue in run_sync(queues()) if queue.name == "refused")


@pytest.fixture
def _dead_letters() -> None:
    asynctasq.init(driver="memory")
    dispatch_many_sync(refuse() for _ in range(MANY))
    asyncio.run(Worker(queues=["refused"], concurrency=100, burst=True).run())
    assert dead() == MANY


@pytest.mark.usefixtures("_dead_letters")
def test_what_time_does_not_allow_is_left_for_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moving, "MOST_SECONDS", 0.0)
    moved, is_all = moving.for_a_while(deadletters.retry, "refused", Filter())
    assert 0 < moved < MANY
    assert not is_all
    assert dead() == MANY - moved
    monkeypatch.setattr(moving, "MOST_SECONDS", 60.0)
    assert moving.for_a_while(deadletters.purge, None, Filter()) == (MANY - moved, True)
    assert dead() == 0
