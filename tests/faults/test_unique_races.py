"""Unique calls dispatched from many processes and threads at once: never two, never none.

Each process has threads of synchronous code and an event loop with many dispatches under way; all
begin when a file appears.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from ..servers import postgres_database, redis_url

PROCESSES, THREADS, EACH, KEYS = 3, 4, 12, 4

JOBS = """
import os, time
from datetime import timedelta
from asynctasq import Unique, task

def note(text):
    with open("log", "a") as log:
        log.write(text + "\\n")

@task(unique=Unique(by="key"))
async def once(key, sender):
    import asyncio
    from asynctasq import current_message
    note(f"begin {key} {current_message().id}")
    await asyncio.sleep(0.002)
    note(f"end {key} {current_message().id}")

@task(unique=Unique(by="key", on_conflict="replace"))
async def latest(key, sender):
    from asynctasq import current_message
    note(f"begin {key} {current_message().id}")
    note(f"end {key} {current_message().id}")
"""

SENDER = """
import asyncio, json, os, sys, threading, time
import jobs

task, number, threads, each, keys = getattr(jobs, sys.argv[1]), *map(int, sys.argv[2:])
found = []

def wait():
    open(f"ready-{number}", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.001)

def send(thread):
    for i in range(each):
        handle = task(i % keys, f"{number}-{thread}-{i}").dispatch_sync()
        found.append((i % keys, handle.id, handle.is_existing))

async def send_all():
    async def one(i):
        handle = await task(i % keys, f"{number}-loop-{i}").dispatch()
        found.append((i % keys, handle.id, handle.is_existing))
    await asyncio.gather(*(one(i) for i in range(2 * each)))

running = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
wait()
for thread in running:
    thread.start()
asyncio.run(send_all())
for thread in running:
    thread.join()
print(json.dumps(found))
"""


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment variables for a queue of its own on each broker that processes share."""
    if request.param == "sqlite":
        path = str(tmp_path / "queue.db")
        yield {"ASYNCTASQ_DRIVER": "sqlite", "ASYNCTASQ_SQLITE_PATH": path}
    elif request.param == "redis":
        prefix = f"test-{uuid4().hex}"
        yield {
            "ASYNCTASQ_DRIVER": "redis",
            "ASYNCTASQ_REDIS_URL": redis_url(),
            "ASYNCTASQ_REDIS_KEY_PREFIX": prefix,
        }
        with redis.Redis.from_url(redis_url()) as client:
            for key in client.scan_iter(f"{prefix}:*", count=1000):
                client.delete(key)
    else:
        with postgres_database("races") as url:
            yield {"ASYNCTASQ_DRIVER": "postgres", "ASYNCTASQ_POSTGRES_URL": url}


def race(
    folder: Path, settings: dict[str, str], task: str, *, worker: bool
) -> list[tuple[int, str, bool]]:
    """What every dispatch found: key, id of its handle, and whether that stands for another."""
    (folder / "jobs.py").write_text(JOBS)
    (folder / "sender.py").write_text(SENDER)
    environment = {**os.environ, **settings}
    sizes = [str(n) for n in (THREADS, EACH, KEYS)]
    senders = [
        subprocess.Popen(
            [sys.executable, "sender.py", task, str(n), *sizes],
            cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for n in range(PROCESSES)
    ]  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "asynctasq", "worker", "jobs"], cwd=folder, env=environment
        )
        for _ in range(2 * worker)
    ]
    try:
        while not all((folder / f"ready-{n}").exists() for n in range(PROCESSES)):
            assert all(sender.poll() is None for sender in senders)
            try:
                senders[0].wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        (folder / "go").touch()
        answers = [sender.communicate(timeout=120)[0] for sender in senders]
        assert [sender.returncode for sender in senders] == [0] * PROCESSES
    finally:
        started: list[subprocess.Popen[Any]] = [*senders, *workers]
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)
    return [(key, id_, standing) for text in answers for key, id_, standing in json.loads(text)]


def finish(folder: Path, settings: dict[str, str]) -> list[list[str]]:
    """Run what is left; what the log of the tasks says."""
    command = [sys.executable, "-m", "asynctasq", "worker", "jobs", "--burst"]
    subprocess.run(command, cwd=folder, env={**os.environ, **settings}, check=True, timeout=120)
    return [line.split() for line in (folder / "log").read_text().splitlines()]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("task", ["once", "latest"])
def test_of_hundreds_of_equal_calls_dispatched_at_once_one_is_held(
    tmp_path: Path, settings: dict[str, str], task: str
) -> None:
    found = race(tmp_path, settings, task, worker=False)
    assert len(found) == PROCESSES * (THREADS + 2) * EACH
    ids = {key: {id_ for k, id_, _ in found if k == key} for key in range(KEYS)}
    assert [len(of_key) for of_key in ids.values()] == [1] * KEYS
    first = Counter(key for key, _, stands_for_another in found if not stands_for_another)
    assert first == Counter(range(KEYS))
    log = finish(tmp_path, settings)
    assert sorted(line for line in log if line[0] == "begin") == sorted(
        ["begin", str(key), id_] for key, (id_,) in ids.items()
    )


@pytest.mark.timeout(240)
def test_while_workers_run_no_key_has_two_runs_and_no_dispatch_has_none(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    found = race(tmp_path, settings, "once", worker=True)
    log = finish(tmp_path, settings)
    running: dict[str, str] = {}
    runs: Counter[str] = Counter()
    for what, key, id_ in log:
        if what == "begin":
            assert key not in running, f"{id_} began while {running[key]} ran"
            running[key] = id_
            runs[id_] += 1
        else:
            assert running.pop(key) == id_
    assert not running
    assert set(runs.values()) == {1}
    assert {id_ for _, id_, _ in found} == set(runs)
    assert len({id_ for _, id_, standing in found if not standing}) == len(runs)
