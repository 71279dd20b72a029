"""What runs in the soak: tasks that keep a ledger, and a program that dispatches them.

Each line of the ledger is written in one step, so that a kill leaves whole lines; its last word
says that it is whole. `SOAK_FOLDER` says where the ledgers are.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from pathlib import Path

from asynctasq import BrokerUnavailable, Call, Retry, current_message, dispatch_many, task

_folder = Path(os.environ.get("SOAK_FOLDER", "."))
_files: dict[str, int] = {}

#: Pause between two dispatches, in seconds; half of them send several tasks.
PAUSE_SECONDS = 0.02


def write(ledger: str, *words: object) -> None:
    """Append a line to one of the ledgers."""
    if ledger not in _files:
        _files[ledger] = os.open(_folder / ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_files[ledger], f"{' '.join(map(str, words))} whole\n".encode())


def note(what: str, number: int, pid: int = 0) -> None:
    """Write down what a run does."""
    attempt = current_message().attempt
    write("runs", what, number, attempt, pid or os.getpid(), f"{time.time():.6f}")


@task
async def quick(number: int) -> None:
    """End at once."""
    note("began", number)
    note("ended", number)


@task
async def slow(number: int) -> None:
    """Wait for something."""
    note("began", number)
    await asyncio.sleep(0.2)
    note("ended", number)


@task
def thread(number: int) -> None:
    """Work in a thread."""
    note("began", number)
    time.sleep(0.05)
    note("ended", number)


@task(process=True)
def process(number: int) -> None:
    """Work in a child process; its worker is what is killed."""
    parent = os.getppid()
    note("began", number, parent)
    time.sleep(0.05)
    note("ended", number, parent)


@task(max_attempts=2)
async def twice(number: int) -> None:
    """Need a second attempt."""
    note("began", number)
    if current_message().attempt == 1:
        note("failed", number)
        raise Retry(delay=0.5)
    note("ended", number)


def some_call(number: int) -> Call[None]:
    """A call of one of the tasks; some are due later."""
    kind = random.choices((quick, slow, thread, twice, process), (60, 20, 10, 9, 1))[0]
    call = kind(number)
    return call.delay(random.uniform(0.5, 3)) if random.random() < 0.1 else call


async def dispatch_until_stopped() -> None:
    """Dispatch, and write down which calls were sent and which were refused."""
    numbers = itertools.count()
    while True:
        batch = [next(numbers) for _ in range(random.choice((1, 1, 1, 5, 10)))]
        write("sent", "trying", *batch)
        try:
            if len(batch) == 1:
                await some_call(batch[0]).dispatch()
            else:
                await dispatch_many([some_call(number) for number in batch])
        except BrokerUnavailable:
            write("sent", "refused", *batch)
        else:
            write("sent", "sent", *batch)
        await asyncio.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    # Under its importable name, as the workers know the tasks.
    from bench.soak_tasks import dispatch_until_stopped as dispatching

    asyncio.run(dispatching())
