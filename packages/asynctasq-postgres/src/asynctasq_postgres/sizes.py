"""How much goes into one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: A value of more bytes is refused: the server holds no more than a gigabyte at once, and needs
#: several times what it is given.
MOST_VALUE_BYTES = 200 * 1024 * 1024
#: One statement takes so many rows, and bytes unless a single row has more.
_MOST_ROWS, _MOST_BYTES = 5000, 16 * 1024 * 1024


def pages(items: Sequence[T], weight: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """The items, in order, in as few parts as fit into a statement each."""
    start = used = 0
    for i, item in enumerate(items):
        bytes_ = weight(item)
        if i > start and (used + bytes_ > _MOST_BYTES or i - start >= _MOST_ROWS):
            yield items[start:i]
            start, used = i, 0
        used += bytes_
    if start < len(items):
        yield items[start:]
