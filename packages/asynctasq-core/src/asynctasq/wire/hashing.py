"""Sets and dicts of values that anybody may have written, built at a bounded cost.

Owns the rule that no message holds a worker by keys that were chosen to collide: a hash table
compares each of them with all others of its hash, in a time that grows with the square of their
number. So the hashes are counted before anything is compared. Whatever type the keys have, and
whatever Python's seed for texts is, that costs no more than hashing them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from ..errors import InvalidMessage

#: A collection of so few is built as it is.
_FEW = 16

#: Comparisons for each item, on average, that are still no flood: pairs of small numbers have a few
#: hashes in common, since -1 and -2 have the same.
_MOST_COMPARISONS = 16


def set_of(items: Sequence[Any]) -> set[Any]:
    """A set of these items.

    Raises:
        InvalidMessage: They were chosen to collide.
    """
    if len(items) > _FEW:
        _check(items)
    return set(items)


def dict_of(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of these keys and values.

    Raises:
        InvalidMessage: The keys were chosen to collide.
    """
    if len(pairs) > _FEW:
        _check(map(itemgetter(0), pairs))
    return dict(pairs)


def _check(keys: Iterable[Any]) -> None:
    shared = Counter(map(hash, keys))
    count = shared.total()
    if len(shared) == count:
        return
    if sum(n * n for n in shared.values() if n > 1) > 2 * _MOST_COMPARISONS * count:
        raise InvalidMessage("keys, or members of a set, that were chosen to collide")
