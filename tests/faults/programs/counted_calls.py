"""Prints the function calls of Python and of C that one call costs, with no adapter but its own.

A process of its own: whatever a suite has imported, hooked or left running would be counted too.
A slow machine settles the same tasks in more and smaller rounds, so the least of several counts is
the code's own.

Arguments: what to count (one of `KINDS`), the URL of a Redis, the number of calls.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

import asynctasq
import asynctasq.adapters.plugins
from asynctasq import Ref, Worker, class_path, dispatch_many, hookimpl, task
from asynctasq.adapters.plugins import Adapters
from asynctasq.events import Event, listen, unlisten

ROUNDS = 5


@task
async def noop() -> None:
    """Do nothing."""


class Row:
    """A model."""

    def __init__(self, pk: int) -> None:
        self.pk = pk


class RowAdapter:
    """An adapter whose queries cost nothing."""

    @hookimpl
    def is_model(self, obj: object) -> bool:
        """Tell rows."""
        return isinstance(obj, Row)

    @hookimpl
    def to_ref(self, obj: Row) -> Ref:
        """Name a row by its key."""
        return Ref(class_path(Row), obj.pk)

    @hookimpl
    async def fetch_many(self, refs: Sequence[Ref]) -> list[Row]:
        """Make the rows up."""
        return [Row(ref.pk) for ref in refs]


@task
async def take_row(row: Row) -> None:
    """Do nothing with a row."""


async def counted(work: Callable[[], Awaitable[object]]) -> int:
    """Calls in this thread while `work` runs."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(note)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return count


async def in_worker(number: int) -> int:
    """Run what waits, to the last call."""
    return await counted(Worker(concurrency=100, burst=True).run)


async def of_noops(number: int) -> int:
    """Run calls without arguments."""
    await dispatch_many(noop() for _ in range(number))
    return await in_worker(number)


async def of_told(number: int) -> int:
    """Run calls while a listener hears all events, in a thread of its own that is not counted."""
    heard: list[Event] = []
    listen(heard.append)
    try:
        return await of_noops(number)
    finally:
        unlisten(heard.append)


async def of_instances(number: int) -> int:
    """Run calls with one instance each."""
    await dispatch_many(take_row(Row(i)) for i in range(number))
    return await in_worker(number)


async def of_dispatches(number: int) -> int:
    """Dispatch calls, all at once."""
    await noop().dispatch()
    return await counted(lambda: asyncio.gather(*(noop().dispatch() for _ in range(number))))


KINDS = {
    "worker": of_noops,
    "worker-with-an-instance": of_instances,
    "worker-with-a-listener": of_told,
    "dispatch": of_dispatches,
}


async def main(kind: str, url: str, number: int) -> None:
    """Print the least count of several."""
    asynctasq.adapters.plugins._installed = Adapters(
        {"rows": RowAdapter()} if kind == "worker-with-an-instance" else {}
    )
    asynctasq.init(driver="redis", redis=url)
    print(min([await KINDS[kind](number) for _ in range(ROUNDS)]) / number)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
