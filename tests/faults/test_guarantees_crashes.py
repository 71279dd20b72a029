"""Tasks that kill their process end as dead letters, and take no innocent task with them."""

from __future__ import annotations

import re

import pytest

from .deployments import Deployment, eventually, reason_of

INNOCENT = 60

KILLERS = [
    "kill_loop(1000, 'exit')",
    "kill_thread(1001, 'kill')",
    "kill_loop(1002, 'segfault')",
    "kill_thread(1003, 'abort')",
]


def mixed(killers: list[str], innocent: int) -> list[str]:
    """Killers spread among innocent tasks, the first of them in front."""
    calls = []
    for i, killer in enumerate(killers):
        calls.append(killer)
        calls += [f"work({n}, 0.005)" for n in range(i, innocent, len(killers))]
    return calls


def restart_until_done(deployment: Deployment, *options: str) -> None:
    """What a service manager does: start the worker again whenever it dies."""
    for _ in range(80):
        if deployment.run_worker("--burst", "--lease", "0.5", *options) == 0:
            return
    pytest.fail("the workers went on dying")


def check_account(deployment: Deployment, killers: int, most_deliveries: int) -> None:
    assert deployment.counts() == {"dead": killers}
    reasons = [reason_of(letter)["reason"] for letter in deployment.dead_letters()]
    deliveries = [re.findall(r"delivered (\d+) times to workers that died", r) for r in reasons]
    # One more where the worker was killed before it had given up an earlier one.
    assert all(int(times) >= most_deliveries for [times] in deliveries)
    assert set(deployment.times("ended")) == set(range(INNOCENT))
    killed = deployment.times("killed")
    assert set(killed) == set(range(1000, 1000 + killers))
    assert max(killed.values()) <= most_deliveries


@pytest.mark.timeout(240)
@pytest.mark.parametrize("most_deliveries", [3, 5])
def test_killers_of_each_kind_are_dead_letters_under_a_restart_loop(
    deployment: Deployment, most_deliveries: int
) -> None:
    deployment.settings["ASYNCTASQ_MAX_DELIVERIES"] = str(most_deliveries)
    deployment.dispatch(*mixed(KILLERS, INNOCENT))
    restart_until_done(deployment, "--concurrency", "10")
    check_account(deployment, len(KILLERS), most_deliveries)


@pytest.mark.timeout(240)
def test_killers_of_each_kind_are_dead_letters_under_a_supervisor(deployment: Deployment) -> None:
    deployment.settings["ASYNCTASQ_MAX_DELIVERIES"] = "3"
    deployment.dispatch(*mixed(KILLERS, INNOCENT))
    parent = deployment.start_worker("--processes", "2", "--concurrency", "10", "--lease", "600")
    eventually(lambda: deployment.counts() == {"dead": len(KILLERS)}, 120)
    parent.terminate()
    assert parent.wait(30) == 0
    check_account(deployment, len(KILLERS), 3)


@pytest.mark.timeout(240)
def test_many_killers_at_once_take_no_innocent_task_with_them(deployment: Deployment) -> None:
    deployment.settings["ASYNCTASQ_MAX_DELIVERIES"] = "3"
    killers = [f"kill_loop({1000 + n}, 'exit')" for n in range(12)]
    deployment.dispatch(*mixed(killers, INNOCENT))
    restart_until_done(deployment, "--concurrency", "20")
    check_account(deployment, len(killers), 3)


def test_too_much_memory_fails_the_task_alone(deployment: Deployment) -> None:
    deployment.dispatch("exhaust_memory(1)", "work(2)")
    assert deployment.run_worker("--burst") == 0
    [letter] = deployment.dead_letters()
    assert reason_of(letter)["error"].startswith("MemoryError")
    assert deployment.times("ended") == {2: 1}


def test_a_crashed_child_process_fails_its_own_task_alone(deployment: Deployment) -> None:
    kinds = ["exit", "kill", "segfault", "abort"]
    deployment.dispatch(
        *(f"kill_child({n}, '{how}')" for n, how in enumerate(kinds)),
        *(f"burn_process({n}, 0.2)" for n in range(10, 14)),
        "work(20, 1)",
    )
    assert deployment.run_worker("--burst", "--concurrency", "9") == 0
    assert deployment.times("ended") == dict.fromkeys([10, 11, 12, 13, 20], 1)
    errors = {reason_of(letter)["error"] for letter in deployment.dead_letters()}
    assert {error.rpartition(" ")[2] for error in errors} == {"3", "SIGKILL", "SIGSEGV", "SIGABRT"}
