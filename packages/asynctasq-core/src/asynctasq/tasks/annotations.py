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

from ..wire.class_paths import find_class, module_name

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


@dataclass(frozen=True, slots=True)
class Declared:
    """What the metadata of one annotation says of rows.

    Attributes:
        options: For the adapter.
        on_missing: `None` where it is not said.
        classes: What is annotated, where that is a class or a union of classes.
    """

    options: tuple[Any, ...] = ()
    on_missing: Missing | None = None
    classes: tuple[type, ...] = ()


@dataclass(slots=True)
class Annotations:
    """The annotations of one task's function, or of one result.

    Attributes:
        tags: Dataclasses and enums that are named anywhere in them, with their tags.
        types: The same, by tag.
        declared: By parameter, what its annotation says of all rows in it.
        parts: By parameter, what annotations inside its annotation say of rows of their classes.
        scope: Classes that annotations find besides those of their module.
        positional: Names of the parameters that take arguments by position.
        named: Names of those that take arguments by name.
        variadic: Names of `*args` and `**kwargs`, empty where there are none.
        chosen: What `declared_for` has answered, by its parameter and path.
    """

    tags: dict[type, str] = field(default_factory=dict)
    types: dict[str, type] = field(default_factory=dict)
    declared: dict[str, Declared] = field(default_factory=dict)
    parts: dict[str, list[Declared]] = field(default_factory=dict)
    scope: Mapping[str, type] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    variadic: tuple[str, str] = ("", "")
    chosen: dict[tuple[str, str], Declared] = field(default_factory=dict)

    def add(self, hint: Any, name: str = "") -> None:
        """Take in one annotation, that of the parameter `name` if it has one."""
        whole, *parts = _declarations(hint)
        if whole.options or whole.on_missing:
            self.declared[name] = whole
        if parts:
            self.parts[name] = parts
        for cls in _named_types(hint, self.scope, []):
            tag = f"{module_name(cls.__module__)}.{cls.__qualname__}"
            self.tags[cls] = tag
            self.types[tag] = cls

    def parameter(self, argument: int | str) -> str:
        """Name of the parameter that takes an argument, given by position or name."""
        if isinstance(argument, str):
            return argument if argument in self.named else self.variadic[1]
        names = self.positional
        return names[argument] if argument < len(names) else self.variadic[0]

    def declared_for(self, name: str, path: str, is_model: Callable[[type], bool]) -> Declared:
        """What is said of rows of the class of this path, in a parameter that has `parts`.

        Args:
            is_model: Tells a model's class; what annotates another type counts for all rows.
        """
        if (known := self.chosen.get((name, path))) is not None:
            return known
        cls = find_class(path)
        chosen = self.declared.get(name, Declared())
        for part in self.parts[name]:
            if not all(map(is_model, part.classes)) or issubclass(cls, part.classes or object):
                options = (*chosen.options, *part.options)
                chosen = Declared(options, part.on_missing or chosen.on_missing)
        self.chosen[name, path] = chosen
        return chosen


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


def annotations_of(
    function: Callable[..., Any], scope: Mapping[str, type] | None = None
) -> tuple[Annotations, Annotations]:
    """The annotations of the parameters, and of the result.

    An annotation whose names cannot be looked up (imported for type checkers only) says nothing.

    Args:
        scope: From `enclosing_classes`.
    """
    scope = scope or {}
    parameters, result = _of_signature(function, scope), Annotations(scope=scope)
    for name, hint in _evaluated(function, scope).items():
        if name == "return":
            result.add(hint)
        else:
            parameters.add(hint, name)
    return parameters, result


def _of_signature(function: Callable[..., Any], scope: Mapping[str, type]) -> Annotations:
    by_kind: dict[inspect._ParameterKind, list[str]] = {kind: [] for kind in inspect._ParameterKind}
    for parameter in inspect.signature(function).parameters.values():
        by_kind[parameter.kind].append(parameter.name)
    only, either, args, named, kwargs = by_kind.values()
    return Annotations(
        scope=scope,
        positional=(*only, *either),
        named=frozenset((*either, *named)),
        variadic=("".join(args), "".join(kwargs)),
    )


def _evaluated(holder: Any, scope: Mapping[str, type]) -> dict[str, Any]:
    if isinstance(holder, type):
        names = {**vars(sys.modules.get(holder.__module__, object)), **scope, **vars(holder)}
    else:
        names = {**getattr(inspect.unwrap(holder), "__globals__", {}), **scope, **_closure(holder)}
    try:
        return typing.get_type_hints(holder, names, include_extras=True)
    except Exception:  # noqa: BLE001 - one name that cannot be looked up; take the others
        return _one_by_one(holder, names)


def _one_by_one(holder: Any, names: dict[str, Any]) -> dict[str, Any]:
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


def _declarations(hint: Any) -> Iterator[Declared]:
    """What the metadata of the annotation says, and then that of annotations inside it."""
    metadata: tuple[Any, ...] = ()
    hint = getattr(hint, "__value__", hint)  # of a `type` statement
    if typing.get_origin(hint) is typing.Annotated:
        metadata, hint = hint.__metadata__, hint.__origin__
    yield _declared(metadata, hint)
    for argument in typing.get_args(hint):
        yield from (d for d in _declarations(argument) if d.options or d.on_missing)


def _declared(metadata: tuple[Any, ...], hint: Any) -> Declared:
    options = tuple(m for m in metadata if not isinstance(m, OnMissing))
    rules = [m.action for m in metadata if isinstance(m, OnMissing)]
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    classes = typing.get_args(hint) if is_union else (hint,)
    classes = tuple(cls for cls in classes if cls is not types.NoneType)
    if not all(isinstance(cls, type) for cls in classes):
        classes = ()
    return Declared(options, rules[-1] if rules else None, classes)


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
            yield from _evaluated(base, scope).values()
