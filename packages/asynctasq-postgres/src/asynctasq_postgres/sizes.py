"""Limits on the size of one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Larger values are refused: the server allows no more than a gigabyte at once, and needs several
#: times the size of what it is given.
MOST_VALUE_BYTES = 200 * 1024 * 1024
#: Maximum number of rows and bytes in one statement; a single row may be larger.
_MOST_ROWS, _MOST_BYTES = 5000, 16 * 1024 * 1024


def pages(items: Sequence[T], weight: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Split the items, in order, into as few parts as possible that each fit into a statement."""
    start = used = 0
    for i, item in enumerate(items):
        bytes_ = weight(item)
        if i > start and (used + bytes_ > _MOST_BYTES or i - start >= _MOST_ROWS):
            yield items[start:i]
            start, used = i, 0
        used += bytes_
    if start < len(items):
        yield items[start:]
