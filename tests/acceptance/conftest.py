"""Wheels as a user gets them, installed into empty environments, and commands run in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "asynctasq",
    "asynctasq-core",
    "asynctasq-sqlalchemy",
    "asynctasq-django",
    "asynctasq-tortoise",
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
        finished(_run_quietly(*pip, "--quiet", "-c", str(constraints), *requirements))
        return Environment(path)

    return make


def _run_quietly(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
    )
