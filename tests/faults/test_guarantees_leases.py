"""Leases: what blocks a worker runs once, what a dead one held runs again, and in time."""

from __future__ import annotations

import signal
import time

import pytest

from .deployments import Deployment, eventually

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
    deployment.dispatch("fail_in_the_first_process(1, 0.3)")
    eventually(lambda: deployment.notes("began"))
    slow.send_signal(signal.SIGSTOP)
    deployment.start_worker("--lease", str(LEASE))
    eventually(lambda: deployment.notes("ended"))
    eventually(lambda: deployment.counts() == {})
    slow.send_signal(signal.SIGCONT)
    # Woken, it asks for a retry of a message that another worker has finished.
    eventually(lambda: "lease lost" in deployment.log())
    assert len(deployment.notes("late")) == 1
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


def test_several_workers_run_each_due_message_once(deployment: Deployment) -> None:
    for _ in range(3):
        deployment.start_worker()
    eventually(lambda: deployment.worker_count() == 3)
    deployment.dispatch(*(f"work({n}).delay({0.3 + n % 5 / 10})" for n in range(300)))
    eventually(lambda: deployment.counts() == {})
    assert deployment.times("began") == dict.fromkeys(range(300), 1)
    assert len({note.pid for note in deployment.notes()}) > 1
