"""Sets and dicts of values that anybody may have written, built at a bounded cost.

Owns the rule that no message holds a worker by keys that were chosen to collide: a hash table of
such keys takes time that grows with the square of their number. Which keys collide depends on
their types, on Python's version and, for text, on a seed that may be known, so it is the time taken
that is looked at: it covers all of them, and spares large collections that are only large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import thread_time
from typing import Any

from ..errors import InvalidMessage

#: A collection of so few is built without a look at the clock.
_FEW = 16

#: Items between two looks at the clock.
_STEP = 256

#: Seconds of processor time for one item, ten times what the slowest of ours take on a slow
#: machine; and how long, in how many steps, a message may be slower. A garbage collection may fall
#: into a step or two.
_ITEM_SECONDS, _SLOW_SECONDS, _SLOW_STEPS = 1e-5, 0.05, 3


@dataclass(slots=True)
class Collections:
    """Builds the sets and dicts of one message.

    Attributes:
        slow_seconds: How long steps took in which items took longer than they should.
        slow_steps: How many there were.
    """

    slow_seconds: float = 0.0
    slow_steps: int = 0

    def set_of(self, items: Sequence[Any]) -> set[Any]:
        """A set of these items.

        Raises:
            InvalidMessage: They were chosen to collide.
        """
        if len(items) <= _FEW:
            return set(items)
        built: set[Any] = set()
        self._add(iter(items), built.update)
        return built

    def dict_of(self, pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        """A dict of these keys and values.

        Raises:
            InvalidMessage: The keys were chosen to collide.
        """
        if len(pairs) <= _FEW:
            return dict(pairs)
        built: dict[Any, Any] = {}
        self._add(iter(pairs), built.update)
        return built

    def _add(self, items: Iterator[Any], add: Callable[[list[Any]], None]) -> None:
        since = thread_time()
        while step := list(islice(items, _STEP)):
            add(step)
            now = thread_time()
            if now - since > len(step) * _ITEM_SECONDS:
                self._note_slow(now - since)
            since = now

    def _note_slow(self, seconds: float) -> None:
        self.slow_seconds += seconds
        self.slow_steps += 1
        if self.slow_seconds > _SLOW_SECONDS and self.slow_steps >= _SLOW_STEPS:
            raise InvalidMessage("keys, or members of a set, that were chosen to collide")
