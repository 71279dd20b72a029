"""What belongs to one event loop of one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """A value for the loop that is running; another loop, or a forked child, gets a new one.

    What a former loop or the parent process had is forgotten, not closed: it is theirs.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._value: T | None = None

    def get(self) -> T:
        """The value of the running loop."""
        owner = asyncio.get_running_loop(), os.getpid()
        if self._value is None or self._owner != owner:
            self._owner, self._value = owner, self._make()
        return self._value

    def take(self) -> T | None:
        """The value of the running loop, if there is one, for the last time."""
        value, self._value = self._value, None
        return value if self._owner == (asyncio.get_running_loop(), os.getpid()) else None
