"""Redis stops, dies, freezes, drops connections and fills up under real workers and senders."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..redis_servers import RedisProcess
from .deployments import Deployment, eventually

#: Seconds that an answer of the server may take.
TIMEOUT = 1.0

#: Dispatches one task after the other, and notes for each whether it was sent, and how long it took
#: to know. A task that was refused may have been sent nevertheless.
SENDER = """
import asyncio, sys, time
from asynctasq import BrokerUnavailable
from fault_tasks import work

async def main():
    number = 0
    while True:
        before = time.monotonic()
        try:
            await work(number).dispatch()
            word = "sent"
        except BrokerUnavailable:
            word = "refused"
        print(word, number, time.monotonic() - before, flush=True)
        number += 1
        await asyncio.sleep(0.005)

asyncio.run(main())
"""


class Sender:
    """A process that dispatches for as long as it lives."""

    def __init__(self, deployment: Deployment) -> None:
        self._file = deployment.path / "sent"
        with self._file.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SENDER],
                cwd=deployment.path,
                env=deployment.environment,
                stdout=output,
            )

    def lines(self, word: str) -> dict[int, float]:
        """How many seconds each dispatch took that ended so."""
        parts = [line.split() for line in self._file.read_text().splitlines()]
        return {int(p[1]): float(p[2]) for p in parts if len(p) == 3 and p[0] == word}

    def goes_on(self) -> None:
        """Wait until it sends again."""
        before = len(self.lines("sent"))
        eventually(lambda: len(self.lines("sent")) > before + 20)

    def end(self) -> None:
        """End it."""
        assert self.process.poll() is None, "the sender died"
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(start_redis: Any) -> RedisProcess:
    started: RedisProcess = start_redis("--appendonly", "yes", "--appendfsync", "always")
    return started


@pytest.fixture
def deployment(server: RedisProcess, tmp_path: Path) -> Iterator[Deployment]:
    settings = {
        "ASYNCTASQ_REDIS_URL": server.url,
        "ASYNCTASQ_REDIS_TIMEOUT": str(TIMEOUT),
        "ASYNCTASQ_REDIS_CONNECT_TIMEOUT": str(TIMEOUT),
    }
    deployed = Deployment(tmp_path, settings)
    yield deployed
    deployed.end()


@pytest.fixture
def sender(deployment: Deployment) -> Iterator[Sender]:
    """A sender, and two workers that run what it sends."""
    for _ in range(2):
        deployment.start_worker("--lease", "2")
    eventually(lambda: deployment.worker_count() == 2)
    started = Sender(deployment)
    started.goes_on()
    yield started
    started.end()


def check_account(deployment: Deployment, sender: Sender) -> None:
    """Everything that was sent runs; what was refused may; each dispatch ended in time."""
    # A dispatch that is under way may be cut off by the end of its process.
    sender.process.send_signal(signal.SIGSTOP)
    sent, refused = sender.lines("sent"), sender.lines("refused")
    eventually(lambda: set(sent) <= set(deployment.times("ended")))
    assert set(deployment.times("ended")) <= set(sent) | set(refused) | {len(sent) + len(refused)}
    assert max((*sent.values(), *refused.values())) < TIMEOUT + 2


@pytest.mark.parametrize("end", ["shutdown", "kill"])
def test_workers_and_senders_outlive_a_restart_and_nothing_is_lost(
    server: RedisProcess, deployment: Deployment, sender: Sender, end: str
) -> None:
    for _ in range(3):
        if end == "kill":
            server.kill()
        else:
            server.send(signal.SIGTERM)
            assert server.process is not None
            server.process.wait(20)
        before = len(sender.lines("refused"))
        eventually(lambda before=before: len(sender.lines("refused")) > before)  # type: ignore[misc]
        server.start()
        sender.goes_on()
    check_account(deployment, sender)


def test_workers_and_senders_outlive_a_server_that_freezes(
    server: RedisProcess, deployment: Deployment, sender: Sender
) -> None:
    server.send(signal.SIGSTOP)
    eventually(lambda: len(sender.lines("refused")) >= 2)
    server.send(signal.SIGCONT)
    sender.goes_on()
    check_account(deployment, sender)


def test_dropped_connections_lose_nothing(
    server: RedisProcess, deployment: Deployment, sender: Sender
) -> None:
    with server.client() as client:
        for _ in range(20):
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
            time.sleep(0.05)  # some of each dispatch, take and settling in between
    sender.goes_on()
    check_account(deployment, sender)


def test_a_full_server_refuses_dispatches_and_lets_workers_go_on(
    server: RedisProcess, deployment: Deployment, sender: Sender
) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "100kb")  # less than it needs when empty
        eventually(lambda: sender.lines("refused"))
        eventually(lambda: deployment.counts() == {})
        client.config_set("maxmemory", "0")
    sender.goes_on()
    check_account(deployment, sender)


def test_workers_that_start_while_the_server_is_full_empty_it(
    server: RedisProcess, deployment: Deployment
) -> None:
    deployment.dispatch(*(f"work({n})" for n in range(20)))
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "100kb")
        assert deployment.run_worker("--burst") == 0
    assert set(deployment.times("ended")) == set(range(20))


def test_a_task_that_ends_while_the_server_is_away_for_longer_than_its_lease_runs_once(
    server: RedisProcess, deployment: Deployment
) -> None:
    deployment.start_worker("--lease", "1")
    deployment.dispatch("work(1, 0.5)", "work(2, 4)")
    eventually(lambda: len(deployment.notes("began")) == 2)
    server.kill()
    eventually(lambda: 1 in deployment.times("ended"))
    time.sleep(1.5)  # past the leases, which nobody can renew
    server.start()
    eventually(lambda: deployment.counts() == {})
    assert deployment.times("began") == {1: 1, 2: 1}


def test_a_flushed_server_is_set_up_again(
    server: RedisProcess, deployment: Deployment, sender: Sender
) -> None:
    with server.client() as client:
        client.flushall()
    lost = set(sender.lines("sent")) | {len(sender.lines("sent")) + len(sender.lines("refused"))}
    sender.goes_on()
    sender.process.send_signal(signal.SIGSTOP)
    later = set(sender.lines("sent")) - lost
    assert later
    eventually(lambda: later <= set(deployment.times("ended")))


def test_a_worker_started_before_its_server_waits_for_it(
    server: RedisProcess, deployment: Deployment
) -> None:
    server.kill()
    worker = deployment.start_worker()
    eventually(lambda: "broker unavailable, retrying" in deployment.log())
    server.start()
    deployment.dispatch("work(1)")
    eventually(lambda: deployment.times("ended") == {1: 1})
    worker.terminate()
    assert worker.wait(20) == 0


async def test_a_stalled_network_holds_no_dispatch_and_no_worker(
    server: RedisProcess, deployment: Deployment, start_proxy: Any
) -> None:
    proxy = await start_proxy(server.port)
    deployment.settings["ASYNCTASQ_REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
    deployment.start_worker("--lease", "2")
    sender = Sender(deployment)
    try:
        await asyncio.to_thread(sender.goes_on)
        proxy.stalled = True
        await asyncio.to_thread(eventually, lambda: len(sender.lines("refused")) >= 2)
        proxy.stalled = False
        await asyncio.to_thread(sender.goes_on)
        await asyncio.to_thread(check_account, deployment, sender)
    finally:
        sender.end()
