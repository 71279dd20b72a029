"""A worker that was told to stop ends in time, also when a task blocks its event loop."""

from __future__ import annotations

import signal
import time

import pytest

from .deployments import Deployment, eventually


@pytest.mark.parametrize("task", ["block_loop", "burn_loop"])
def test_a_blocked_event_loop_keeps_no_stopped_worker_and_none_of_its_messages(
    deployment: Deployment, task: str
) -> None:
    deployment.dispatch(f"{task}(1, 100)", "work(2, 100)")
    worker = deployment.start_worker("--grace", "0.5", "--lease", "600")
    eventually(lambda: deployment.notes("began"))
    worker.terminate()
    stopped = time.monotonic()
    assert worker.wait(30) == 0
    assert time.monotonic() - stopped < 10
    assert deployment.counts() == {"waiting": 2}
    assert "blocks the event loop" in deployment.log()


def test_a_blocked_event_loop_that_goes_on_within_the_grace_time_ends_its_task(
    deployment: Deployment,
) -> None:
    deployment.dispatch("block_loop(1, 5)")
    worker = deployment.start_worker("--grace", "20", "--lease", "600")
    eventually(lambda: deployment.notes("began"))
    worker.terminate()
    assert worker.wait(30) == 0
    assert deployment.times("ended") == {1: 1}
    assert deployment.counts() == {}


def test_a_second_signal_ends_a_blocked_worker_too(deployment: Deployment) -> None:
    deployment.dispatch("burn_loop(1, 100)")
    worker = deployment.start_worker("--grace", "600", "--lease", "600")
    eventually(lambda: deployment.notes("began"))
    for _ in range(2):
        worker.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals sent at once would be one
    assert worker.wait(10) == 0
    assert deployment.counts() == {"waiting": 1}


def test_a_worker_stops_in_time_although_its_server_does_not_answer(
    redis_deployment: Deployment, start_redis: object
) -> None:
    server = start_redis()  # type: ignore[operator]
    redis_deployment.settings["ASYNCTASQ_REDIS_URL"] = server.url
    redis_deployment.settings["ASYNCTASQ_REDIS_TIMEOUT"] = "1"
    redis_deployment.dispatch("work(1, 100)")
    worker = redis_deployment.start_worker("--grace", "0.5")
    eventually(lambda: redis_deployment.notes("began"))
    server.send(signal.SIGSTOP)
    worker.terminate()
    assert worker.wait(20) == 0
