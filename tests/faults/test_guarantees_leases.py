"""Leases: what blocks a worker runs once, what a dead one held runs again, and in time."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from .deployments import Deployment, eventually
from .relays import relay

LEASE = 1.0
"""Seconds."""


@pytest.mark.parametrize("task", ["block_loop", "burn_loop", "burn_thread", "burn_process"])
def test_a_task_that_hogs_its_worker_for_three_leases_runs_once(
    deployment: Deployment, task: str
) -> None:
    for _ in range(2):
        deployment.start_worker("--lease", str(LEASE))
    eventually(lambda: deployment.worker_count() == 2)
    deployment.dispatch(f"{task}(1, {3 * LEASE})")
    eventually(lambda: deployment.notes("ended"))
    eventually(lambda: deployment.counts() == {})
    assert deployment.times("began") == {1: 1}


def test_what_a_killed_worker_ran_and_held_runs_again_within_the_lease_and_a_second(
    deployment: Deployment,
) -> None:
    doomed = deployment.start_worker("--lease", str(LEASE), "--concurrency", "4")
    deployment.dispatch(*(f"work({n}, 30)" for n in range(4)))
    eventually(lambda: len(deployment.notes("began")) == 4)
    deployment.start_worker("--lease", str(LEASE))
    eventually(lambda: deployment.worker_count() == 2)
    doomed.kill()
    killed = time.time()
    eventually(lambda: len(deployment.notes("began")) == 8)
    again = deployment.notes("began")[4:]
    assert sorted(note.number for note in again) == [0, 1, 2, 3]
    assert max(note.at for note in again) - killed < LEASE + 1


def test_a_small_worker_takes_over_all_that_a_large_one_held_without_pausing(
    deployment: Deployment,
) -> None:
    doomed = deployment.start_worker("--lease", str(LEASE), "--concurrency", "40")
    deployment.dispatch("*(fail_in_the_first_process(n, 30) for n in range(40))")
    eventually(lambda: len(deployment.notes("began")) == 40)
    deployment.start_worker("--lease", str(LEASE), "--concurrency", "4")
    eventually(lambda: deployment.worker_count() == 2)
    doomed.kill()
    killed = time.time()
    eventually(lambda: len(deployment.notes("ended")) == 40)
    assert max(note.at for note in deployment.notes("ended")) - killed < LEASE + 1


def test_a_lone_worker_finds_what_was_left_without_new_messages(deployment: Deployment) -> None:
    doomed = deployment.start_worker("--lease", str(LEASE))
    deployment.dispatch("work(1, 30)")
    eventually(lambda: deployment.notes("began"))
    doomed.kill()
    doomed.wait()
    deployment.start_worker("--lease", str(LEASE))
    eventually(lambda: deployment.times("began") == {1: 2}, LEASE + 20)


def test_an_outcome_after_the_lease_was_lost_changes_nothing(deployment: Deployment) -> None:
    slow = deployment.start_worker("--lease", str(LEASE))
    deployment.dispatch("fail_in_the_first_process(1, 2)")
    eventually(lambda: deployment.notes("began"))
    slow.send_signal(signal.SIGSTOP)
    deployment.start_worker("--lease", str(LEASE))
    eventually(lambda: deployment.notes("ended"))
    eventually(lambda: deployment.counts() == {})
    slow.send_signal(signal.SIGCONT)
    # Woken, it asks for a retry of a message that another worker has finished.
    eventually(lambda: "lease lost" in deployment.log())
    eventually(lambda: len(deployment.notes("late")) == 1)
    assert deployment.counts() == {}


def test_an_outcome_after_the_lease_was_lost_does_not_end_the_run_that_took_over(
    deployment: Deployment,
) -> None:
    slow = deployment.start_worker("--lease", str(LEASE))
    deployment.dispatch("work(1, 4)")
    eventually(lambda: deployment.notes("began"))
    slow.send_signal(signal.SIGSTOP)
    deployment.start_worker("--lease", str(LEASE))
    eventually(lambda: len(deployment.notes("began")) == 2)
    time.sleep(1.5)  # the first run is to end well before the second
    slow.send_signal(signal.SIGCONT)
    eventually(lambda: "lease lost" in deployment.log())
    eventually(lambda: deployment.notes("ended"))
    assert [note.pid for note in deployment.notes("ended")] == [slow.pid]
    assert deployment.counts() == {"running": 1}
    eventually(lambda: deployment.counts() == {})
    assert deployment.times("ended") == {1: 2}


@pytest.mark.parametrize("kind", ["swallows", "resets", "locks"])
def test_an_outage_shorter_than_the_lease_less_a_second_loses_no_lease(
    request: pytest.FixtureRequest, kind: str
) -> None:
    broker = "sqlite" if kind == "locks" else "redis"
    deployment: Deployment = request.getfixturevalue(f"{broker}_deployment")
    lease, outages = 3.0, 3
    with outage_of(deployment, kind) as (settings, outage):
        # The second worker has no outage: it would take over at once what the first one loses.
        deployment.start_worker("--lease", str(lease), **settings)
        eventually(lambda: deployment.worker_count() == 1)
        deployment.dispatch(*(f"work({n}, {(outages + 1) * lease})" for n in range(4)))
        eventually(lambda: len(deployment.notes("began")) == 4)
        deployment.start_worker("--lease", str(lease))
        eventually(lambda: deployment.worker_count() == 2)
        for number in range(outages):
            time.sleep(0.6 + 0.17 * number)  # renewals in between, and another moment each time
            with outage():
                time.sleep(lease - 1.05)
        eventually(lambda: len(deployment.notes("ended")) == 4)
    assert deployment.times("began") == dict.fromkeys(range(4), 1)
    assert "lease lost" not in deployment.log()


@contextmanager
def outage_of(
    deployment: Deployment, kind: str
) -> Iterator[tuple[dict[str, str], Callable[[], AbstractContextManager[None]]]]:
    """A worker's settings for having outages, and what makes one for the length of a block."""
    if kind == "locks":
        yield {}, lambda: lock_on(Path(deployment.settings["ASYNCTASQ_SQLITE_PATH"]))
        return
    url = urlsplit(deployment.settings["ASYNCTASQ_REDIS_URL"])
    with relay(url.port or 6379) as between:

        @contextmanager
        def outage() -> Iterator[None]:
            between.is_down = between.is_stalled = True
            if kind == "resets":
                between.reset_all()
            else:
                between.is_down = False
            yield
            between.is_down = between.is_stalled = False

        yield {"ASYNCTASQ_REDIS_URL": f"redis://127.0.0.1:{between.port}{url.path}"}, outage


@contextmanager
def lock_on(path: Path) -> Iterator[None]:
    """Another process's transaction, which holds up every writer of the queue file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_several_workers_run_each_due_message_once(deployment: Deployment) -> None:
    for _ in range(3):
        deployment.start_worker()
    eventually(lambda: deployment.worker_count() == 3)
    # One worker alone would need some seconds, in which the others look more than once.
    deployment.dispatch(*(f"work({n}, 0.2).delay({0.3 + n % 5 / 10})" for n in range(300)))
    eventually(lambda: deployment.counts() == {})
    assert deployment.times("began") == dict.fromkeys(range(300), 1)
    assert len({note.pid for note in deployment.notes()}) > 1
