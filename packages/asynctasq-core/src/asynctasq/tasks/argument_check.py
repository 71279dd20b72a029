"""Checks arguments against signature and annotations; fast if they fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

from . import runtime
from .annotations import Annotations


def argument_check(
    signature: inspect.Signature,
) -> Callable[[Sequence[Any], dict[str, Any]], None]:
    """Make a check that uses `Signature.bind` only for calls that do not fit.

    `bind` costs about 3 us; comparing names and counts costs a few hundred ns.
    """
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
    # After the first n positional arguments: what is still required, and what is accepted by name.
    required_after = [required - set(names[:n]) for n in range(count + 1)]
    accepted_after = [accepted - set(names[:n]) for n in range(count + 1)]

    def check(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        n = len(args)
        if n > count or not required_after[n] <= kwargs.keys() <= accepted_after[n]:
            bind(args, kwargs)

    return check


def check_models(annotations: Annotations, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Check that instances are of the models that the annotations name.

    Raises:
        TypeError: One is of another model; names the parameter and both models.
    """
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for argument, value in arguments:
        name = annotations.parameter(argument)
        classes = annotations.models.get(name)
        if classes is not None:
            _check_model(name, value, classes, _DEEPEST)


#: How deep in containers to look for instances.
_DEEPEST = 20


def _check_model(name: str, value: Any, classes: tuple[type, ...], depth: int) -> None:
    cls = type(value)
    if cls in (list, tuple, set, frozenset, dict):
        if depth > 0:
            for item in (*value, *value.values()) if cls is dict else value:
                _check_model(name, item, classes, depth - 1)
        return
    if issubclass(cls, classes) or not runtime.is_model(value):
        return
    if not isinstance(value, classes):  # last, since it may wake a lazy object
        wanted = " or ".join(c.__qualname__ for c in classes if c is not NoneType)
        raise TypeError(f"{name!r} takes {wanted}, not an instance of {cls.__qualname__}")


def _with_unknown(error: TypeError, unknown: set[str]) -> TypeError:
    """The error; if an argument is missing, with the unknown names that may have meant it."""
    if not unknown or "missing" not in str(error):
        return error
    return TypeError(f"{error}; there is no {', '.join(map(repr, sorted(unknown)))}")
