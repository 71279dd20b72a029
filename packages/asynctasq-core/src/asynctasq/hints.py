"""What annotations say: types that may travel, how rows are loaded, what if one is gone."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
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
        scope: Classes that annotations find besides those of their module.
    """

    tags: dict[type, str] = field(default_factory=dict)
    types: dict[str, type] = field(default_factory=dict)
    options: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    on_missing: dict[str, Missing] = field(default_factory=dict)
    scope: Mapping[str, type] = field(default_factory=dict)

    def add(self, hint: Any, name: str = "") -> None:
        """Take in one annotation, that of the parameter `name` if it has one."""
        metadata = list(_metadata(hint))
        options = tuple(m for m in metadata if not isinstance(m, OnMissing))
        if options:
            self.options[name] = options
        for item in metadata:
            if isinstance(item, OnMissing):
                self.on_missing[name] = item.action
        for cls in _named_types(hint, self.scope, []):
            tag = f"{module_name(cls.__module__)}.{cls.__qualname__}"
            self.tags[cls] = tag
            self.types[tag] = cls


def enclosing_classes(function: Callable[..., Any]) -> dict[str, type]:
    """The classes local to the function that defines this one, for annotations that are strings.

    To be called while that function runs.
    """
    if "<locals>" not in function.__qualname__:
        return {}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    names = {} if frame is None else frame.f_locals
    return {name: value for name, value in names.items() if isinstance(value, type)}


def _is_ours(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "asynctasq"


def hints_of(
    function: Callable[..., Any], scope: Mapping[str, type] | None = None
) -> tuple[Hints, Hints]:
    """The annotations of the parameters, and of the result.

    An annotation whose names cannot be looked up (imported for type checkers only) says nothing.

    Args:
        scope: From `enclosing_classes`.
    """
    scope = scope or {}
    parameters, result = Hints(scope=scope), Hints(scope=scope)
    for name, hint in _hints(function, scope).items():
        if name == "return":
            result.add(hint)
        else:
            parameters.add(hint, name)
    return parameters, result


def _hints(holder: Any, scope: Mapping[str, type]) -> dict[str, Any]:
    if isinstance(holder, type):
        names = {**vars(sys.modules.get(holder.__module__, object)), **scope, **vars(holder)}
    else:
        names = {**getattr(inspect.unwrap(holder), "__globals__", {}), **scope, **_closure(holder)}
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


def _named_types(hint: Any, scope: Mapping[str, type], seen: list[Any]) -> Iterator[type]:
    """Dataclasses and enums in the annotation, and in the fields of those dataclasses."""
    if any(hint is other for other in seen):
        return
    seen.append(hint)
    if isinstance(hint, type) and (issubclass(hint, Enum) or dataclasses.is_dataclass(hint)):
        yield hint
    for part in _parts(hint, scope):
        yield from _named_types(part, scope, seen)


def _parts(hint: Any, scope: Mapping[str, type]) -> Iterator[Any]:
    """What an annotation is made of."""
    if typing.get_origin(hint) is typing.Annotated:
        yield hint.__origin__
        return
    if isinstance(hint, Enum):  # in a `Literal`
        yield type(hint)
        return
    yield typing.get_origin(hint)
    yield from typing.get_args(hint)
    yield getattr(hint, "__supertype__", None)  # of a `NewType`
    yield getattr(hint, "__value__", None)  # of a `type` statement
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
        for base in hint.__mro__:
            yield from _hints(base, scope).values()
