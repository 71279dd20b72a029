"""Checking arguments against a signature, quickly when they fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def argument_check(
    function: Callable[..., Any],
) -> Callable[[Sequence[Any], dict[str, Any]], None]:
    """A check of arguments that leaves `Signature.bind` to the calls that do not fit.

    `bind` costs about 3 us, the comparison of names and counts a few hundred ns.
    """
    signature = inspect.signature(function)
    kinds = inspect.Parameter
    parameters = list(signature.parameters.values())

    def bind(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as e:
            raise _with_unknown(e, kwargs.keys() - signature.parameters.keys()) from None

    plain = [p for p in parameters if p.kind is kinds.POSITIONAL_OR_KEYWORD]
    only = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY]
    if len(plain) + len(only) != len(parameters):
        return bind
    names = [p.name for p in plain]
    count = len(names)
    required = {p.name for p in plain + only if p.default is p.empty}
    accepted = {p.name for p in plain + only}
    # What is still required, and accepted by name, behind the first n positional arguments.
    required_after = [required - set(names[:n]) for n in range(count + 1)]
    accepted_after = [accepted - set(names[:n]) for n in range(count + 1)]

    def check(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        n = len(args)
        if n > count or not required_after[n] <= kwargs.keys() <= accepted_after[n]:
            bind(args, kwargs)

    return check


def _with_unknown(error: TypeError, unknown: set[str]) -> TypeError:
    """The error; where it says that one is missing, also which name may have been meant for it."""
    if not unknown or "missing" not in str(error):
        return error
    return TypeError(f"{error}; there is no {', '.join(map(repr, sorted(unknown)))}")
