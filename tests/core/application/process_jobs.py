"""Tasks that run in child processes, which import this module by its name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from asynctasq import (
    Retry,
    Stopped,
    SyncTask,
    TaskConfig,
    checkpoint_sync,
    current_message,
    is_stopping,
    progress_sync,
    task,
)


@dataclass
class Item:
    """An argument and a result."""

    name: str


class OwnError(Exception):
    """An application's error."""


@task(process=True, result_ttl=60)
def item_of(value: Item, times: int = 1) -> tuple[Item, int, int]:
    return Item(value.name * times), os.getpid(), current_message().attempt


@task(process=True, result_ttl=60, max_attempts=1)
def fails() -> None:
    raise OwnError("in the child", 7)


@task(process=True, result_ttl=60, max_attempts=3, retry_delay=0)
def third_time() -> int:
    attempt = current_message().attempt
    if attempt < 3:
        raise Retry("again", delay=0)
    return attempt


@task(process=True, result_ttl=60, max_attempts=1)
def exits() -> None:
    raise SystemExit(3)


@task(process=True, result_ttl=60, max_attempts=1)
def dies() -> None:
    os._exit(7)


@task(process=True, result_ttl=60)
def until_stopped(folder: str) -> object:
    """Runs until its worker stops, and then goes on in the next one."""
    if (left := current_message().checkpoint) is not None:
        return left, current_message().attempt, is_stopping()
    Path(folder, "running").touch()
    while not is_stopping():
        time.sleep(0.01)
    checkpoint_sync("left")
    raise Stopped


@task(process=True)
def tells() -> None:
    progress_sync(1, 2)
    progress_sync(2, 2, "in a process")


class Hooked(SyncTask[None]):
    """Notes its hooks in a file."""

    config: TaskConfig = {
        "process": True,
        "max_attempts": 2,
        "retry_delay": 0,
        "result_ttl": 60,
    }

    def __init__(self, file: str) -> None:
        self.file = file

    def note(self, text: str) -> None:
        with Path(self.file).open("a") as file:
            file.write(f"{text}\n")

    def execute(self) -> None:
        self.note("execute")
        raise OwnError("x")

    def should_retry(self, exc: BaseException) -> bool:
        self.note(f"should_retry {exc!r}")
        return True

    def failed(self, exc: BaseException) -> None:
        self.note(f"failed {exc!r}")


@task(process=True)
def square(n: int) -> int:
    return n * n
