"""How far a long command is: a bar for somebody at a terminal, and nothing anywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ..brokers import Broker, QueueStats
from ..errors import BrokerError
from .terminal import is_watched

#: Seconds between two looks at what is left of a burst.
_LOOK_SECONDS = 0.5

Show = Callable[[int, int | None], None]


@contextmanager
def bar(what: str) -> Iterator[Show | None]:
    """A bar on stderr while the block runs; it leaves nothing behind.

    Yields:
        Shows how much is done, and of how much, if that is known; `None` if nobody is watching.
    """
    if not is_watched():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)

        def show(done: int, total: int | None) -> None:
            shown.update(task, completed=done, total=total)

        yield show


async def show_burst(broker: Broker, queues: Sequence[str]) -> None:
    """Show, until cancelled, how much of a burst is done: of all that was there at its start.

    What comes in later only makes it slower.
    """
    with bar("running") as show:
        total = 0
        while show is not None:
            with suppress(BrokerError):  # the worker itself says that it cannot reach it
                left = _left(await broker.stats(), queues)
                total = max(total, left)
                show(total - left, total)
            await asyncio.sleep(_LOOK_SECONDS)


def _left(stats: Sequence[QueueStats], queues: Sequence[str]) -> int:
    return sum(q.waiting + q.running + q.delayed for q in stats if q.name in queues)
