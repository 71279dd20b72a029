"""Finds mutable objects that two instances share, so that changing one would change the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

_CONTAINERS = (list, dict, set)


def shared(one: object, other: object, is_model: Callable[[object], bool]) -> list[object]:
    """Containers and model instances that can be reached from both."""
    seen, others = _reached(one, is_model), _reached(other, is_model)
    return [value for key, value in seen.items() if key in others]


def assert_not_shared(one: object, other: object, is_model: Callable[[object], bool]) -> None:
    """Fail if the two share any; skip the test if neither holds any."""
    if len(_reached(one, is_model)) == 1:
        pytest.skip("the rows hold nothing that could be shared")
    assert shared(one, other, is_model) == []


def _reached(row: object, is_model: Callable[[object], bool]) -> dict[int, object]:
    found: dict[int, object] = {}
    waiting = [row]
    while waiting:
        value = waiting.pop()
        if id(value) in found:
            continue
        if type(value) in _CONTAINERS or is_model(value):
            found[id(value)] = value
            waiting += _inside(value, is_model)
        elif type(value) is tuple:
            waiting += value
    return found


def _inside(value: Any, is_model: Callable[[object], bool]) -> Iterator[object]:
    if type(value) is dict:
        yield from value.values()
    elif type(value) in _CONTAINERS:
        yield from value
    else:
        for attribute in _attributes(value):
            yield attribute
            # What an ORM keeps beside the columns in an object of its own, such as a cache.
            if not is_model(attribute) and not isinstance(attribute, type):
                yield from _attributes(attribute)


def _attributes(value: object) -> Iterator[object]:
    try:
        state = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return
    if type(state) is dict:
        yield from state.values()
