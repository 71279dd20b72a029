"""Tunes the garbage collector of a process that only runs tasks.

Owns the rule that the collector stays on: cycles are still freed, only less often.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: New objects that trigger a collection. A batch of tasks makes several thousand, nearly all of
#: which are freed when it ends; with Python's default, each batch would be scanned several times.
THRESHOLD = 10_000


@contextmanager
def fitted() -> Iterator[None]:
    """Exempt everything loaded so far from collections, and collect less often.

    An ORM and its models are hundreds of thousands of objects that live as long as the process, and
    each full collection would scan them. An application that already collects even less often, or
    not at all, keeps its own setting.
    """
    threshold, *older = gc.get_threshold()
    gc.collect()
    gc.freeze()
    if threshold:  # 0 switches it off, like `gc.disable`
        gc.set_threshold(max(threshold, THRESHOLD), *older)
    try:
        yield
    finally:
        gc.set_threshold(threshold, *older)
        gc.unfreeze()
