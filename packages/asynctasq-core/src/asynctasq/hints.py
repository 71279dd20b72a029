"""What annotations say: types that may travel, how rows are loaded, what if one is gone."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from .models import module_name

Missing = Literal["fail", "skip", "none"]


@dataclass(frozen=True, slots=True)
class OnMissing:
    """In a parameter's annotation: what happens when its row is gone, instead of the task's rule.

    Attributes:
        action: `"fail"`, `"skip"` or `"none"`, as in `Annotated[User | None, OnMissing("none")]`.
    """

    action: Missing

    def __post_init__(self) -> None:
        if self.action not in typing.get_args(Missing):
            raise ValueError(f'OnMissing takes "fail", "skip" or "none", not {self.action!r}')


@dataclass(slots=True)
class Hints:
    """The annotations of one task's function, or of one result.

    Attributes:
        tags: Dataclasses and enums that are named anywhere in them, with their tags.
        types: The same, by tag.
        options: Metadata for the adapter, by parameter.
        on_missing: By parameter, where it is set.
    """

    tags: dict[type, str] = field(default_factory=dict)
    types: dict[str, type] = field(default_factory=dict)
    options: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    on_missing: dict[str, Missing] = field(default_factory=dict)

    def add(self, hint: Any, name: str = "") -> None:
        """Take in one annotation, that of the parameter `name` if it has one."""
        metadata = list(_metadata(hint))
        options = tuple(m for m in metadata if not isinstance(m, OnMissing))
        if options:
            self.options[name] = options
        for item in metadata:
            if isinstance(item, OnMissing):
                self.on_missing[name] = item.action
        for cls in _named_types(hint, set()):
            tag = f"{module_name(cls.__module__)}.{cls.__qualname__}"
            self.tags[cls] = tag
            self.types[tag] = cls


def hints_of(function: Callable[..., Any]) -> tuple[Hints, Hints]:
    """The annotations of the parameters, and of the result.

    An annotation whose names cannot be looked up (imported for type checkers only) says nothing.
    """
    parameters, result = Hints(), Hints()
    for name, hint in _hints(function).items():
        if name == "return":
            result.add(hint)
        else:
            parameters.add(hint, name)
    return parameters, result


def _hints(holder: Any) -> dict[str, Any]:
    if isinstance(holder, type):
        names = {**vars(sys.modules.get(holder.__module__, object)), **vars(holder)}
    else:
        names = {**getattr(inspect.unwrap(holder), "__globals__", {}), **_closure(holder)}
    try:
        return typing.get_type_hints(holder, names, include_extras=True)
    except Exception:  # noqa: BLE001 - one name that cannot be looked up; take the others
        return _hints_one_by_one(holder, names)


def _hints_one_by_one(holder: Any, names: dict[str, Any]) -> dict[str, Any]:
    hints = {}
    for name, value in inspect.get_annotations(holder).items():
        if isinstance(value, str):
            try:
                value = eval(value, names)
            except Exception:  # noqa: BLE001 - whatever the application wrote
                continue
        hints[name] = value
    return hints


def _closure(function: Any) -> Mapping[str, Any]:
    function = inspect.unwrap(function)
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if hasattr(function, "__code__") else ()
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _metadata(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is typing.Annotated:
        yield from hint.__metadata__
        hint = hint.__origin__
    for argument in typing.get_args(hint):
        yield from _metadata(argument)


def _named_types(hint: Any, seen: set[Any]) -> Iterator[type]:
    """Dataclasses and enums in the annotation, and in the fields of those dataclasses."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = hint.__origin__
    for argument in typing.get_args(hint):
        yield from _named_types(argument, seen)
    if not isinstance(hint, type) or hint in seen:
        return
    seen.add(hint)
    if issubclass(hint, Enum):
        yield hint
    elif dataclasses.is_dataclass(hint):
        yield hint
        for base in hint.__mro__:
            for field_hint in _hints(base).values():
                yield from _named_types(field_hint, seen)
