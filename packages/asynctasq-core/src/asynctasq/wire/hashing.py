"""Builds sets and dicts of untrusted values at a bounded cost.

Owns the rule that no message can stall a worker with keys chosen to collide: a hash table compares
each key with all others of the same hash, which takes quadratic time. So hashes are counted before
anything is compared. That costs no more than hashing the keys, whatever their type and whatever
Python's hash seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from ..errors import InvalidMessage

#: Collections up to this size are built unchecked.
_FEW = 16

#: Comparisons per item, on average, that are still innocent: pairs of small numbers share a few
#: hashes, since hash(-1) == hash(-2).
_MOST_COMPARISONS = 16


def set_of(items: Sequence[Any]) -> set[Any]:
    """A set of these items.

    Raises:
        InvalidMessage: The items were chosen to collide.
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
