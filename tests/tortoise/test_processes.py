"""Instances in child processes and in several worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from asynctasq import init, task
from tortoise import Tortoise, fields
from tortoise.models import Model


class User(Model):
    email = fields.CharField(max_length=50)


DATABASE = {"db_url": "DATABASE_URL", "modules": {"models": ["shop"]}}
init(tortoise_config=DATABASE)


@task(process=True, max_attempts=1)
def tell_pid(user: User) -> None:
    print("process", os.getpid(), user.email, flush=True)


@task(max_attempts=1)
async def tell(user: User) -> None:
    assert await User.all().count() == 1
    print("async", os.getpid(), user.email, flush=True)


async def main() -> None:
    await Tortoise.init(**DATABASE)
    await Tortoise.generate_schemas()
    user = await User.create(email="ada@example.com")
    for _ in range(5):
        await tell_pid(user).dispatch()
        await tell(user).dispatch()
    await Tortoise.close_connections()
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_process_tasks_and_worker_processes_have_connections_of_their_own(
    tmp_path: Path, postgres_url: str, processes: str
) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM.replace("DATABASE_URL", postgres_url))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
    environment = {**kept, "PYTHONPATH": str(tmp_path)}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", "import asyncio, shop; asyncio.run(shop.main())")
    output = run("-m", "asynctasq", "worker", "shop", "--burst", "--processes", processes)
    lines = [line.split() for line in output.splitlines()]
    assert sorted((kind, email) for kind, _, email in lines) == [
        *[("async", "ada@example.com")] * 5,
        *[("process", "ada@example.com")] * 5,
    ]
    pids = {kind: {pid for each, pid, _ in lines if each == kind} for kind in ("async", "process")}
    assert pids["async"].isdisjoint(pids["process"])
