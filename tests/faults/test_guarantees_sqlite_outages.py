"""The queue file is locked, full, read-only or cut off under real workers and senders."""

from __future__ import annotations

import os
import resource
import sqlite3
import time
from pathlib import Path

import pytest

from .deployments import Deployment, eventually

BUSY_TIMEOUT = 0.5
"""Seconds."""

#: Tries to dispatch once; says what came of it and after how many seconds.
TRY = """
import time
from asynctasq import BrokerUnavailable
before = time.monotonic()
try:
    asyncio.run({call}.dispatch())
    word = "sent"
except BrokerUnavailable as e:
    word = "refused"
print(word, time.monotonic() - before)
"""


@pytest.fixture
def deployment(sqlite_deployment: Deployment) -> Deployment:
    sqlite_deployment.settings["ASYNCTASQ_SQLITE_BUSY_TIMEOUT"] = str(BUSY_TIMEOUT)
    return sqlite_deployment


def try_to_dispatch(deployment: Deployment, call: str) -> str:
    word, seconds = deployment.python(TRY.format(call=call)).split()
    assert float(seconds) < BUSY_TIMEOUT + 2
    return word


def queue_file(deployment: Deployment) -> Path:
    return Path(deployment.settings["ASYNCTASQ_SQLITE_PATH"])


def test_a_lock_by_another_process_holds_nobody_and_loses_nothing(deployment: Deployment) -> None:
    worker = deployment.start_worker("--lease", "2")
    deployment.dispatch("work(1)", "work(2, 1)", "fail_once(3)")
    eventually(lambda: deployment.times("began").keys() >= {2, 3})
    with sqlite3.connect(queue_file(deployment), isolation_level=None) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        assert try_to_dispatch(deployment, "work(4)") == "refused"
        eventually(lambda: 2 in deployment.times("ended"))
        eventually(lambda: "cannot settle, retrying" in deployment.log())
        time.sleep(2.5)  # past the leases, which nobody can renew
        intruder.execute("COMMIT")
    intruder.close()
    assert try_to_dispatch(deployment, "work(5)") == "sent"
    eventually(lambda: deployment.counts() == {})
    assert deployment.times("ended") == {1: 1, 2: 1, 3: 1, 5: 1}
    assert worker.poll() is None


def test_a_full_disk_refuses_dispatches_and_the_worker_settles_once_there_is_room(
    deployment: Deployment,
) -> None:
    worker = deployment.start_worker("--lease", "2")
    deployment.dispatch("work(1, 1)", "work(2, 1)")
    eventually(lambda: len(deployment.notes("began")) == 2)
    # What a process gets that writes to a full disk; of all that it writes only the queue file
    # and its log are as long as this.
    _, most = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    size = sum(os.stat(f"{queue_file(deployment)}{end}").st_size for end in ("", "-wal"))
    limit = (deployment.path / "notes").stat().st_size + 10_000
    assert size > limit, "the limit would hit what the tasks note, and not the queue"
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, most))
    eventually(lambda: len(deployment.notes("ended")) == 2)
    eventually(lambda: "cannot settle, retrying" in deployment.log())
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (most, most))
    eventually(lambda: deployment.counts() == {})
    deployment.dispatch("work(3)")
    eventually(lambda: deployment.times("ended") == {1: 1, 2: 1, 3: 1})
    assert worker.poll() is None


def test_a_read_only_file_is_waited_for(deployment: Deployment) -> None:
    folder = deployment.path / "queue"
    path = folder / "queue.db"
    deployment.settings["ASYNCTASQ_SQLITE_PATH"] = str(path)
    deployment.dispatch("work(1)")
    path.chmod(0o444)
    folder.chmod(0o555)
    worker = deployment.start_worker(ASYNCTASQ_IMPORTS="unprivileged")
    eventually(lambda: "broker unavailable, retrying" in deployment.log())
    assert str(path) in deployment.log()
    attempt = deployment.python("import unprivileged\n" + TRY.format(call="work(2)"))
    assert attempt.startswith("refused")
    folder.chmod(0o755)
    path.chmod(0o644)
    eventually(lambda: deployment.times("ended") == {1: 1})
    worker.terminate()
    assert worker.wait(20) == 0


def test_a_worker_killed_in_a_transaction_leaves_no_lock_and_no_half_message(
    deployment: Deployment,
) -> None:
    # The kills are none of the messages' doing, and the same ones may be there at each.
    deployment.settings["ASYNCTASQ_MAX_DELIVERIES"] = "100"
    deployment.dispatch("*(work(n) for n in range(2000))")
    for _ in range(5):
        seen = len(deployment.notes("began"))
        worker = deployment.start_worker("--lease", "0.5", "--concurrency", "100")
        # At full speed a worker is in a transaction most of the time.
        eventually(lambda seen=seen: len(deployment.notes("began")) > seen)  # type: ignore[misc]
        worker.kill()
        worker.wait()
        assert try_to_dispatch(deployment, "work(3000)") == "sent"
    with sqlite3.connect(queue_file(deployment)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert deployment.run_worker("--burst", "--lease", "0.5") == 0
    assert set(deployment.times("ended")) == {*range(2000), 3000}
    assert deployment.counts() == {}
