"""Moves many dead letters in one request, which ends in time whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from asynctasq.deadletters import Filter
from asynctasq.looking import run_sync

#: Seconds after which no further batch is begun: proxies wait for an answer for 30 to 60.
MOST_SECONDS = 10.0


class _TimeIsUp(Exception):
    pass


def for_a_while(
    move: Callable[..., Coroutine[Any, Any, int]], queue: str | None, where: Filter
) -> tuple[int, bool]:
    """Move the dead letters that match, batch by batch, while there is time.

    Args:
        move: `deadletters.retry` or `deadletters.purge`.

    Returns:
        How many were moved, and whether none is left.

    Raises:
        BrokerUnavailable: The broker cannot be reached; what was moved by then stays moved.
    """
    until, moved = monotonic() + MOST_SECONDS, 0

    def note(count: int) -> None:
        nonlocal moved
        moved = count
        if monotonic() >= until:
            raise _TimeIsUp

    try:
        return run_sync(move(queue, None, where, on_progress=note)), True
    except _TimeIsUp:
        return moved, False
