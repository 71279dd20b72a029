"""The example of a third party's broker, installed as users install one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import ROOT, Environment, clean_environment, finished

EXAMPLE = ROOT / "examples" / "asynctasq-toybroker"
GUIDE = (ROOT / "docs" / "writing-a-broker.md").read_text()
Install = Callable[[Sequence[str]], Environment]

APPLICATION = """
import os
import time
from pathlib import Path

from asynctasq import dispatch_many, init, task

init({"driver": "toy", "toy": {"folder": "queues"}})

@task(result_ttl=60)
def note(number: int) -> int:
    with Path("ran").open("a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.02)
    return number

async def send() -> None:
    handles = await dispatch_many(note(number) for number in range(200))
    print(*(handle.id for handle in handles))

if __name__ == "__main__":
    import asyncio
    asyncio.run(send())
"""


@pytest.fixture(scope="module")
def environment(install: Install) -> Environment:
    """A virtual environment with the example, its extra for testing, and nothing else."""
    return install([f"asynctasq-toybroker[testing] @ {EXAMPLE.as_uri()}"])


def commands() -> list[list[str]]:
    """What the guide tells its readers to type, after the installation."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert lines[0] == ["pip", "install", "-e", ".[testing]"]
    return lines[1:]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_of_the_guide_work(
    environment: Environment, command: list[str], tmp_path: Path
) -> None:
    reasons = {"PYTEST_ADDOPTS": "-rs"}
    output = finished(environment.run(*command, cwd=tmp_path, env=reasons, timeout=110))
    passed = re.search(r"(\d+) passed", output)
    assert passed
    assert int(passed[1]) > 110
    assert "failed" not in output
    skipped = re.findall(r"^SKIPPED .*", output, re.MULTILINE)
    assert all("does not have the capability" in line for line in skipped)


def test_a_wrong_option_is_refused_with_the_right_one(
    environment: Environment, tmp_path: Path
) -> None:
    done = environment.run(
        "asynctasq", "status", cwd=tmp_path, env={"ASYNCTASQ_TOY_FLODER": "queues"}
    )
    assert done.returncode != 0
    assert "ASYNCTASQ_TOY_FOLDER" in done.stderr


def test_workers_in_several_processes_lose_nothing_when_one_is_killed(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    ran = tmp_path / "ran"
    finished(environment.run("python", "app.py", cwd=tmp_path))
    worker = ["worker", "app", "--concurrency", "4", "--lease", "2"]
    with started(environment, tmp_path, *worker) as victim:
        deadline = time.monotonic() + 30
        while not ran.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        victim.kill()
    assert len(ran.read_text().splitlines()) < 200
    with started(environment, tmp_path, *worker, "--burst") as one:
        with started(environment, tmp_path, *worker, "--burst") as other:
            assert other.wait(60) == 0
        assert one.wait(60) == 0
    counted = Counter(map(int, ran.read_text().split()))
    assert set(counted) == set(range(200))
    assert sum(counted.values()) <= 200 + 4
    status = json.loads(
        finished(environment.run("asynctasq", "status", "-m", "app", "--json", cwd=tmp_path))
    )
    [queue] = status["queues"]
    assert queue == {"name": "default", "waiting": 0, "running": 0, "delayed": 0, "dead": 0}


@contextmanager
def started(
    environment: Environment, folder: Path, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker beside the test, killed at the end if it is still there."""
    program = [str(environment.path / "bin" / "asynctasq"), *arguments]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            program, cwd=folder, env=clean_environment(), stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
