"""Processes that a benchmark starts: what one that fails wrote is shown, none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 300


class Failed(SystemExit):
    """A process that did not do its part; the message holds its traceback."""

    def __init__(self, command: Sequence[str], what: str, written: str) -> None:
        super().__init__(f"{' '.join(map(str, command))}\n{what}; it wrote:\n{written[-8000:]}")


def output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; what it printed.

    Raises:
        Failed: It ended with an error.
    """
    done = subprocess.run(
        command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(command, f"ended with {done.returncode}", done.stderr)
    return done.stdout


class Worker:
    """A worker process, with all processes that it starts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command, self._log = command, log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=PROJECT,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the worker is to bring about.

        Raises:
            Failed: It ended before, or took too long.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            if self._process.poll() is not None and not holds():
                self._fail(f"ended with {self._process.returncode}")
            if time.monotonic() > deadline:
                self._fail(f"was not done after {DEADLINE_SECONDS} s")
            time.sleep(0.005)

    def _fail(self, what: str) -> None:
        raise Failed(self._command, what, self._log.read_text(errors="replace"))

    def kill(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def worker(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Worker]:
    """A worker that is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as folder:
        running = Worker(command, environment, Path(folder) / "log")
        try:
            yield running
        finally:
            running.kill()
