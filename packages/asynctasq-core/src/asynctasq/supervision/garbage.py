"""The garbage collector of a process that only runs tasks.

Owns the rule that it stays on: what cycles hold is freed, only less often.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: New objects that call for a collection. A batch of tasks is some thousands, nearly all of which
#: go when it ends; Python's own figure would have each batch looked through several times.
THRESHOLD = 10_000


@contextmanager
def fitted() -> Iterator[None]:
    """Leave what was loaded until now out of collections, and collect less often.

    Models and an ORM are hundreds of thousands of objects that live as long as the process, and
    each full collection would go through them. An application that collects less often still, or
    not at all, goes on as it wishes.
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
