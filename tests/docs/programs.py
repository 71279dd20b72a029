"""Applications made of a text's examples, run as their readers would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..servers import redis_url

#: Warnings are errors, but for what Tortoise 1.x says of names that the specification uses, and for
#: connections that an example leaves open when its program ends.
WARNINGS = ",".join(
    [
        "error",
        "ignore::ResourceWarning",
        "ignore:`pk` is deprecated:DeprecationWarning",
        "ignore:`index` is deprecated:DeprecationWarning",
    ]
)


@dataclass(frozen=True)
class Application:
    """A folder with an application, and a database and a queue of its own.

    Attributes:
        folder: The working directory of everything that is run.
        database: Host and name of the database, as URLs have them after `//`.
        prefix: Of its keys in Redis.
        settings: Environment variables besides those of the tests.
    """

    folder: Path
    database: str
    prefix: str
    settings: Mapping[str, str]

    def write(self, name: str, text: str) -> None:
        """Write a file, with the names of the servers in the text replaced by the real ones."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("<DATABASE>", self.database).replace("<PREFIX>", self.prefix)
        if "<REDIS>" in text:
            text = text.replace("<REDIS>", redis_url())
        path.write_text(text)

    def python(self, *arguments: str) -> str:
        """Run Python to its end; its output."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout

    def worker(self, *arguments: str) -> str:
        """Run a worker until nothing is left; the output of its tasks."""
        return self.python("-m", "asynctasq", "worker", *arguments, "--burst")

    @contextmanager
    def running_worker(self, *arguments: str) -> Iterator[None]:
        """Run a worker beside the test."""
        command = [sys.executable, "-m", "asynctasq", "worker", *arguments]
        with subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stdout=-3, stderr=-3
        ) as worker:
            try:
                yield
            finally:
                worker.terminate()

    def counts(self, queue: str) -> dict[str, int]:
        """How many messages of a queue are in which state."""
        answer: dict[str, Any] = json.loads(self.python("-m", "asynctasq", "status", "--json"))
        (counts,) = [dict(q) for q in answer["queues"] if q["name"] == queue]
        counts.pop("name")
        return counts

    def queued(self) -> bytes:
        """Everything that the queue file holds."""
        return b"".join(p.read_bytes() for p in (self.folder / ".asynctasq").glob("queue.db*"))

    @property
    def _environment(self) -> dict[str, str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("ASYNCTASQ_", "DJ", "PYTEST"))
        }
        return {**inherited, "PYTHONWARNINGS": WARNINGS, **self.settings}


def place(url: str, database: str) -> str:
    """User, host and database of a URL, with another database."""
    return f"{urlsplit(url).netloc}/{database}"


def eventually(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until it holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)
