"""The quick check of arguments agrees with `inspect.Signature.bind` on every call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from asynctasq.tasks.argument_check import argument_check
from hypothesis import given
from hypothesis import strategies as st


def functions() -> list[Callable[..., Any]]:
    def nothing() -> None: ...
    def one(a: int) -> None: ...
    def two(a: int, b: int = 2) -> None: ...
    def only(a: int, *, b: int, c: int = 3) -> None: ...
    def rest(a: int, *args: int) -> None: ...
    def more(a: int, **kwargs: int) -> None: ...
    def before(a: int, /, b: int) -> None: ...
    def all_kinds(a: int, /, b: int = 2, *args: int, c: int, **kwargs: int) -> None: ...
    def all_optional(a: int = 1, b: int = 2, *, c: int = 3) -> None: ...

    return [nothing, one, two, only, rest, more, before, all_kinds, all_optional]


names = st.sampled_from(["a", "b", "c", "d", "args", "kwargs"])


@pytest.mark.parametrize("function", functions(), ids=lambda f: f.__name__)
def test_it_accepts_and_refuses_what_bind_does(function: Callable[..., Any]) -> None:
    check = argument_check(inspect.signature(function))

    @given(st.lists(st.integers(), max_size=4), st.dictionaries(names, st.integers(), max_size=4))
    def agrees(args: list[int], kwargs: dict[str, int]) -> None:
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(TypeError):
                check(args, kwargs)
        else:
            check(args, kwargs)

    agrees()
