"""SIGKILL at every call of the broker, and at any moment: every task runs, and soon.

Workers are forks that run the command line (`Forks`), so that hundreds fit into a test; several
rounds go on side by side, each with a queue of its own, since most of a round is waiting.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
from asynctasq.brokers import Broker, Pausing
from asynctasq.brokers.opening import installed_drivers, open_broker
from asynctasq.config import Config
from asynctasq.policies.pauses import Pause

from .deployments import Deployment, Forks, forks

LEASE = 1.0
"""Seconds."""

ROUNDS = int(os.environ.get("ASYNCTASQ_KILL_ROUNDS", "30"))
SIDE_BY_SIDE = 4

#: What a kill in the middle of a write leaves is not counted, so each sort of task has some.
CALLS = (
    "*(work(n) for n in range(4))",
    "work(10).delay(0.2)",
    "work(11, 0.5)",
    "fail_once(20)",
    "ask_again(30)",
    "fail(40)",
    "kept(50)",
    "burn_thread(60, 0.05)",
)
ENDED = {0, 1, 2, 3, 10, 11, 20, 30, 50, 60}


@pytest.fixture
def forked() -> Iterator[Forks]:
    with forks() as program:
        yield program


class Round:
    """A queue of its own, and the workers that are on it."""

    def __init__(self, deployment: Deployment, forked: Forks, name: str) -> None:
        path = deployment.path / name
        path.mkdir()
        settings = dict(deployment.settings)
        if settings["ASYNCTASQ_DRIVER"] == "sqlite":
            settings["ASYNCTASQ_SQLITE_PATH"] = str(path / "queue.db")
        elif settings["ASYNCTASQ_DRIVER"] == "postgres":
            settings["ASYNCTASQ_POSTGRES_SCHEMA"] += f"_{name.replace('-', '_')}"
        else:
            settings["ASYNCTASQ_REDIS_KEY_PREFIX"] += f"-{name}"
        self.deployment = Deployment(path, settings)
        self._forked = forked
        self.workers: list[int] = []
        config = Config.load({}, installed_drivers().sections, environ=self.deployment.environment)
        self.broker: Broker = open_broker(config)

    def start_worker(self, *options: str, **settings: str) -> int:
        arguments = ("worker", "killed_at_call", "fault_tasks", "--lease", str(LEASE), *options)
        # Without a variable of its own a worker neither kills itself nor leaves traces.
        settings = {"FAULT_KILL_AT": "0:never", **settings}
        self.workers.append(self._forked.start(self.deployment, *arguments, **settings))
        return self.workers[-1]

    async def dispatch(self, *calls: str) -> None:
        sender = self._forked.dispatch(self.deployment, *calls)
        await self.until(lambda: not is_alive(sender))

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.deployment.log()[-3000:]
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        for pid in self.workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.broker.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def side_by_side(rounds: list[Callable[[], Awaitable[None]]]) -> None:
    slots = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(round_: Callable[[], Awaitable[None]]) -> None:
        async with slots:
            await round_()

    async with asyncio.TaskGroup() as group:
        for round_ in rounds:
            group.create_task(one(round_))


# --- at every call ----------------------------------------------------------------------


async def count_calls(deployment: Deployment, forked: Forks) -> int:
    """How many calls a worker makes that is not killed."""
    round_ = Round(deployment, forked, "counting")
    await round_.dispatch(*CALLS)
    pid = round_.start_worker("--burst", FAULT_KILL_AT="")
    await round_.until(lambda: not is_alive(pid))
    calls = (round_.deployment.path / "calls").read_text().split()
    assert set(calls) == {"start", "take", "settle", "renew", "idle", "stop"}
    await round_.end()
    return len(calls)


async def killed_at(deployment: Deployment, forked: Forks, number: int, when: str) -> None:
    round_ = Round(deployment, forked, f"{when}-{number}")
    try:
        await round_.dispatch(*CALLS)
        doomed = round_.start_worker("--burst", FAULT_KILL_AT=f"{number}:{when}")
        await round_.until(lambda: not is_alive(doomed))
        killed = time.time()
        was_killed = (round_.deployment.path / f"killed-{doomed}").exists()
        heir = round_.start_worker("--burst")
        await round_.until(lambda: not is_alive(heir))
        check_all_ran(round_.deployment, f"{when} call {number}")
        [stats] = [s for s in await round_.broker.stats() if s.name == "default"]
        assert (stats.waiting, stats.running, stats.delayed, stats.dead) == (0, 0, 0, 1)
        if was_killed:
            check_promptness(round_.deployment, killed)
    finally:
        await round_.end()


def check_all_ran(deployment: Deployment, where: str) -> None:
    ended = deployment.times("ended")
    assert set(ended) == ENDED, where
    assert set(deployment.times("began")) == ENDED | {40}, where
    # At most twice: what was in flight in the one worker that was killed.
    assert max(ended.values()) <= 2, where


def check_promptness(deployment: Deployment, killed: float) -> None:
    """Retries and delays take 0.2 s of their own."""
    after = [note.at for note in deployment.notes("began") if note.at > killed]
    assert max(after, default=killed) - killed < LEASE + 1 + 0.2


@pytest.mark.timeout(600)
async def test_a_worker_killed_before_or_after_any_call_of_the_broker_loses_nothing(
    deployment: Deployment, forked: Forks
) -> None:
    calls = await count_calls(deployment, forked)
    assert calls > 8
    await side_by_side(
        [
            lambda number=number, when=when: killed_at(deployment, forked, number, when)  # type: ignore[misc]
            for number in range(1, calls + 2)
            for when in ("before", "after")
        ]
    )


# --- while calls are paused --------------------------------------------------------------

PAUSE = Pause("default", task="fault_tasks.work")
PAUSED, OTHERS = {0, 1, 2, 3}, {20, 50}


async def killed_while_paused(
    deployment: Deployment, forked: Forks, name: str, number: int, when: str
) -> None:
    round_ = Round(deployment, forked, f"{when}-{name}-{number}")
    broker = round_.broker
    assert isinstance(broker, Pausing)
    try:
        await round_.dispatch(
            f"*(work(n) for n in range({len(PAUSED)}))", "fail_once(20)", "kept(50)"
        )
        await broker.pause("default", PAUSE.name, PAUSE.encode())
        at = {"FAULT_CONSUMER_CALLS": name, "FAULT_KILL_AT": f"{number}:{when}"}
        doomed = round_.start_worker("--burst", **at)
        await round_.until(lambda: not is_alive(doomed))
        assert number > 1 or (round_.deployment.path / f"killed-{doomed}").exists()
        heir = round_.start_worker("--burst")
        await round_.until(lambda: not is_alive(heir))
        assert set(round_.deployment.times("began")) == OTHERS, (name, number, when)
        assert await broker.resume("default", PAUSE.name)
        last = round_.start_worker("--burst")
        await round_.until(lambda: not is_alive(last))
        ended = round_.deployment.times("ended")
        assert set(ended) == PAUSED | OTHERS
        assert all(ended[paused] == 1 for paused in PAUSED)
        [stats] = [s for s in await broker.stats() if s.name == "default"]
        assert (stats.waiting, stats.running, stats.delayed, stats.dead) == (0, 0, 0, 0)
    finally:
        await round_.end()


@pytest.mark.timeout(300)
async def test_a_worker_killed_while_it_parks_calls_begins_and_loses_none(
    deployment: Deployment, forked: Forks
) -> None:
    await side_by_side(
        [
            lambda name=name, number=number, when=when: killed_while_paused(  # type: ignore[misc]
                deployment, forked, name, number, when
            )
            for name in ("take", "settle")
            for number in (1, 2)
            for when in ("before", "after")
        ]
    )


# --- at any moment ----------------------------------------------------------------------

TASKS = 80
CONCURRENCY = 5


async def killed_at_random(deployment: Deployment, forked: Forks, number: int) -> int:
    """One round; how many tasks ran twice."""
    round_ = Round(deployment, forked, f"round-{number}")
    try:
        await round_.dispatch(f"*(work(n, 0.02) for n in range({TASKS}))")
        doomed = round_.start_worker("--concurrency", str(CONCURRENCY))
        round_.start_worker("--concurrency", str(CONCURRENCY))
        await round_.until(lambda: any(n.pid == doomed for n in round_.deployment.notes()))
        await asyncio.sleep(random.uniform(0, 0.2))  # the subject: any moment
        os.kill(doomed, signal.SIGKILL)
        killed = time.time()
        await round_.until(lambda: set(round_.deployment.times("ended")) == set(range(TASKS)))
        return check_account(round_.deployment, doomed, killed)
    finally:
        await round_.end()


def check_account(deployment: Deployment, doomed: int, killed: float) -> int:
    began = deployment.notes("began")
    runs = Counter(note.number for note in began)
    twice = {number for number, times in runs.items() if times > 1}
    ended_by_doomed = {n.number: n.at for n in deployment.notes("ended") if n.pid == doomed}
    begun_by_doomed = {n.number for n in began if n.pid == doomed}
    # In flight: begun by the worker that died, and not settled; a settling takes some milliseconds.
    assert twice <= begun_by_doomed
    assert all(killed - ended_by_doomed.get(number, killed) < 0.5 for number in twice)
    assert max(runs.values()) <= 2
    again = [note.at for note in began if note.number in twice and note.pid != doomed]
    assert max(again, default=killed) - killed < LEASE + 1
    return len(twice)


@pytest.mark.timeout(60 + 5 * ROUNDS)
async def test_workers_killed_at_random_moments_lose_nothing_and_repeat_only_what_was_in_flight(
    deployment: Deployment, forked: Forks
) -> None:
    repeated: list[int] = []

    async def one(number: int) -> None:
        repeated.append(await killed_at_random(deployment, forked, number))

    await side_by_side([lambda n=n: one(n) for n in range(ROUNDS)])  # type: ignore[misc]
    assert len(repeated) == ROUNDS
    assert any(repeated), "no kill hit a running task, so nothing was shown"
