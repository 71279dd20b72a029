"""Wheels as a user gets them, installed into empty environments, and commands run in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from ..servers import redis_url

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "asynctasq",
    "asynctasq-core",
    "asynctasq-sqlalchemy",
    "asynctasq-django",
    "asynctasq-tortoise",
    "asynctasq-dashboard",
    "asynctasq-prometheus",
    "asynctasq-opentelemetry",
    "asynctasq-postgres",
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment with nothing but what was asked for."""

    path: Path

    def run(
        self, *command: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment to its end; its own settings only."""
        program = self.path / "bin" / command[0]
        return subprocess.run(
            [program, *command[1:]],
            cwd=cwd,
            env={**clean_environment(), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def distributions(self) -> set[str]:
        """Names of everything installed."""
        code = (
            "import importlib.metadata as m; "
            "print(*(d.name.lower().replace('_', '-') for d in m.distributions()))"
        )
        return set(self.run("python", "-c", code, cwd=self.path).stdout.split())


def clean_environment() -> dict[str, str]:
    """The environment without settings of ours or of the interpreter that runs the tests."""
    return {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("ASYNCTASQ_", "PYTHON", "VIRTUAL_ENV"))
    }


def finished(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a program that must have succeeded."""
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every wheel of the repository by the name of its distribution, built once."""
    folder = tmp_path_factory.mktemp("dist")

    def build(name: str) -> None:
        finished(
            subprocess.run(
                [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
                cwd=ROOT / "packages" / name,
                env=clean_environment(),
                capture_output=True,
                text=True,
                check=False,
            )
        )

    with ThreadPoolExecutor() as pool:
        list(pool.map(build, PACKAGES))
    built = {p.name.partition("-")[0].replace("_", "-"): p for p in folder.glob("*.whl")}
    assert set(built) == set(PACKAGES)
    assert len(list(folder.glob("*.tar.gz"))) == len(PACKAGES)
    return built


@pytest.fixture(scope="session")
def install(
    wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Sequence[str]], Environment]:
    """Make an environment with these requirements, ours always from the wheels built here.

    The index has a project `asynctasq` that is not this one, and could have any of the other
    names tomorrow: the constraints tie each of our names to its file.
    """
    constraints = tmp_path_factory.mktemp("pip") / "constraints.txt"
    constraints.write_text("".join(f"{n} @ {p.as_uri()}\n" for n, p in wheels.items()))

    def make(requirements: Sequence[str]) -> Environment:
        path = tmp_path_factory.mktemp("environment")
        finished(_run_quietly(sys.executable, "-m", "venv", "--without-pip", str(path)))
        pip = [sys.executable, "-m", "pip", "--python", str(path / "bin" / "python"), "install"]
        # Whoever imports a module compiles it: most of what is installed nobody imports here.
        options = ("--quiet", "--no-compile", "-c", str(constraints))
        finished(_run_quietly(*pip, *options, *requirements))
        return Environment(path)

    return make


def _run_quietly(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
    )


@dataclass
class Place:
    """A working directory with an application and a queue of its own, used from the command line.

    Attributes:
        settings: Environment variables that say where the queue is.
    """

    path: Path
    settings: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, source: str) -> None:
        """Write a module of the application."""
        (self.path / name).write_text(source)

    def lines(self, name: str) -> list[str]:
        """The lines of a file that tasks write; empty while there is none."""
        file = self.path / name
        return file.read_text().splitlines() if file.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        return {**clean_environment(), **self.settings}

    def run(
        self, *arguments: str, timeout: float = 60, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `asynctasq` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "asynctasq", *arguments],
            cwd=self.path,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def python(self, code: str) -> str:
        """Run Python code in the working directory; its output."""
        return finished(
            subprocess.run(
                [sys.executable, "-c", code],
                cwd=self.path,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        )

    def status(self) -> Any:
        """What `status --json` says."""
        return json.loads(finished(self.run("status", "--json")))

    def counts(self, queue: str = "default") -> dict[str, int]:
        """How many messages of the queue are in which state; states without any left out."""
        for q in self.status()["queues"]:
            if q.pop("name") == queue:
                return {state: n for state, n in q.items() if n}
        return {}

    @contextmanager
    def start(self, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `asynctasq` beside the test, in a session of its own; output goes to `log`."""
        with (
            (self.path / "log").open("ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", "asynctasq", *arguments],
                cwd=self.path,
                env=self.environment | settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def log(self) -> str:
        """What programs that were started wrote."""
        return "\n".join(self.lines("log"))


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place with each of the brokers that processes can share."""
    if request.param == "sqlite":
        yield Place(tmp_path, {"ASYNCTASQ_DRIVER": "sqlite"})
        return
    prefix = f"test-{uuid.uuid4().hex}"
    url = redis_url()
    yield Place(
        tmp_path,
        {
            "ASYNCTASQ_DRIVER": "redis",
            "ASYNCTASQ_REDIS_URL": url,
            "ASYNCTASQ_REDIS_KEY_PREFIX": prefix,
        },
    )
    with redis.Redis.from_url(url) as server:
        for key in server.scan_iter(f"*{prefix}*", count=1000):
            server.delete(key)


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    """A place with the embedded broker, as it is without any settings."""
    return Place(tmp_path)


def eventually(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until it holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)
