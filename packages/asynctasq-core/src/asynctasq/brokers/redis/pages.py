"""How much one script call carries, so that the server's other clients do not wait long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Maximum messages and bytes per script call (a single message may be larger).
AT_ONCE = 500
BYTES_AT_ONCE = 1024 * 1024


def pages(items: Sequence[T], size: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Split the items so that one call can carry each page; `size` is an item's bytes."""
    first = page_bytes = 0
    for i, item in enumerate(items):
        page_bytes += size(item)
        if i - first == AT_ONCE or (page_bytes > BYTES_AT_ONCE and i > first):
            yield items[first:i]
            first, page_bytes = i, size(item)
    if items:
        yield items[first:]
