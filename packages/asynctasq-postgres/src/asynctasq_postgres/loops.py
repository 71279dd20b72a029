"""Values that belong to one event loop of one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """A value for the running loop; another loop, or a forked child, gets a new one.

    A value of an earlier loop or of the parent process is forgotten, not closed: it is theirs.
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
        """Take the value of the running loop away, if there is one."""
        value, self._value = self._value, None
        return value if self._owner == (asyncio.get_running_loop(), os.getpid()) else None
