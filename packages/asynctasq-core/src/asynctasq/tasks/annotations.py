"""Reads annotations: which types may travel, how to load rows, and what to do if one is gone."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Literal

from ..wire.class_paths import find_class, module_name
from ..wire.forms import form_of
from . import runtime
from .evaluation import Unknown, names_of, own_annotations

Missing = Literal["fail", "skip", "none"]


@dataclass(frozen=True, slots=True)
class OnMissing:
    """In a parameter's annotation: what to do when its row is gone; overrides the task's rule.

    Attributes:
        action: `"fail"`, `"skip"` or `"none"`, as in `Annotated[User | None, OnMissing("none")]`.
    """

    action: Missing

    def __post_init__(self) -> None:
        if self.action not in typing.get_args(Missing):
            raise ValueError(f'OnMissing takes "fail", "skip" or "none", not {self.action!r}')


@dataclass(frozen=True, slots=True)
class DeclaredLoading:
    """What the metadata of one annotation says about rows.

    Attributes:
        options: Options for the adapter.
        on_missing: What to do if a row is gone; `None` if not given.
        classes: The annotated class, or the classes of an annotated union; else empty.
    """

    options: tuple[Any, ...] = ()
    on_missing: Missing | None = None
    classes: tuple[type, ...] = ()


@dataclass(slots=True)
class Annotations:
    """The annotations of one task's function, or of one result.

    Attributes:
        type_names: The name on the wire of each class in any annotation here.
        types: The same classes by that name.
        models: By parameter, the model classes whose instances it takes, if the annotation says so.
        problems: By parameter, what is wrong with its annotation.
        declared: By parameter, what its annotation says about all rows in it.
        parts: By parameter, what nested annotations say about rows of their classes.
        scope: Classes that annotations may name besides those in their module.
        positional: Names of the parameters that take arguments by position.
        named: Names of the parameters that take arguments by name.
        variadic: Names of `*args` and `**kwargs`; empty if there are none.
        chosen: Cached answers of `declared_for`, by parameter and path.
    """

    type_names: dict[type, str] = field(default_factory=dict)
    types: dict[str, type] = field(default_factory=dict)
    models: dict[str, tuple[type, ...]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    declared: dict[str, DeclaredLoading] = field(default_factory=dict)
    parts: dict[str, list[DeclaredLoading]] = field(default_factory=dict)
    scope: Mapping[str, type] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    variadic: tuple[str, str] = ("", "")
    chosen: dict[tuple[str, str], DeclaredLoading] = field(default_factory=dict)

    def add(self, hint: Any, name: str = "") -> None:
        """Add one annotation; `name` is its parameter, or empty for the result."""
        whole, *parts = _declarations(hint)
        if whole.options or whole.on_missing:
            self.declared[name] = whole
        if parts:
            self.parts[name] = parts
        if models := _models_allowed(hint):
            self.models[name] = models
        for named in _named(hint, self.scope, []):
            if isinstance(named, type):
                self._add_class(named, name)

    def _add_class(self, cls: type, name: str) -> None:
        if issubclass(cls, Unknown):
            is_harmless = cls.is_foreign and name not in self.declared and name not in self.parts
            if not is_harmless:
                self.problems[name] = cls.problem
        elif form_of(cls) is not None and not runtime.is_model_class(cls):
            wire_name = f"{module_name(cls.__module__)}.{cls.__qualname__}"
            self.type_names[cls] = wire_name
            self.types[wire_name] = cls

    def parameter(self, argument: int | str) -> str:
        """The name of the parameter that takes an argument given by this position or name."""
        if isinstance(argument, str):
            return argument if argument in self.named else self.variadic[1]
        names = self.positional
        return names[argument] if argument < len(names) else self.variadic[0]

    def declared_for(
        self, name: str, path: str, is_model: Callable[[type], bool]
    ) -> DeclaredLoading:
        """What a parameter with `parts` says about rows of the class at this path.

        Args:
            is_model: Whether a class is a model; metadata on other types applies to all rows.
        """
        if (known := self.chosen.get((name, path))) is not None:
            return known
        cls = find_class(path)
        chosen = self.declared.get(name, DeclaredLoading())
        for part in self.parts[name]:
            if not _all_models(part.classes, is_model) or issubclass(cls, part.classes or object):
                options = (*chosen.options, *part.options)
                chosen = DeclaredLoading(options, part.on_missing or chosen.on_missing)
        self.chosen[name, path] = chosen
        return chosen


def _all_models(classes: Iterable[type], is_model: Callable[[type], bool]) -> bool:
    return all(is_model(cls) and not issubclass(cls, Unknown) for cls in classes)


def annotations_of(
    function: Callable[..., Any], scope: Mapping[str, type] | None = None
) -> tuple[Annotations, Annotations]:
    """The annotations of the parameters, and of the result.

    Args:
        scope: Classes that annotations may name besides those in their module.
    """
    scope = scope or {}
    parameters, result = _of_signature(function, scope), Annotations(scope=scope)
    holder = _written(function)
    names = names_of(holder, scope)
    for name, annotation in own_annotations(holder).items():
        annotations = result if name == "return" else parameters
        try:
            annotations.add(names.evaluate(annotation), "" if name == "return" else name)
        except Exception as e:  # noqa: BLE001 - whatever the application wrote
            annotations.problems[name] = f"{type(e).__name__}: {e}"
    return parameters, result


def _written(function: Any) -> Any:
    """The function whose definition carries the annotations."""
    while isinstance(function, partial):
        function = function.func
    return function if hasattr(function, "__annotations__") else type(function).__call__


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


def _evaluated(cls: type, scope: Mapping[str, type]) -> Iterator[Any]:
    """The annotations of a class's fields, as far as they can be evaluated."""
    for base in cls.__mro__:
        if base is not cls and not _has_fields(base):
            continue
        names = names_of(base, scope)
        for annotation in own_annotations(base).values():
            try:
                yield names.evaluate(annotation)
            except Exception:  # noqa: BLE001 - such a field cannot be of a type that travels
                continue


def _has_fields(cls: type) -> bool:
    if typing.is_typeddict(cls):
        return True
    form = form_of(cls)
    return form is not None and bool(form.fields)


def _declarations(hint: Any, seen: tuple[Any, ...] = ()) -> Iterator[DeclaredLoading]:
    """What the annotation's own metadata says, then that of nested annotations."""
    metadata: tuple[Any, ...] = ()
    hint = _of_alias(hint)
    if typing.get_origin(hint) is typing.Annotated:
        metadata, hint = hint.__metadata__, _of_alias(hint.__origin__)
    yield _declared(metadata, hint)
    if any(hint is other for other in seen):  # an alias that names itself
        return
    for argument in typing.get_args(hint):
        inside = _declarations(argument, (*seen, hint))
        yield from (d for d in inside if d.options or d.on_missing)


def _of_alias(hint: Any) -> Any:
    """The type behind a `type` statement's alias; other hints unchanged."""
    return getattr(hint, "__value__", hint)


def _declared(metadata: tuple[Any, ...], hint: Any) -> DeclaredLoading:
    options = tuple(m for m in metadata if not isinstance(m, OnMissing))
    rules = [m.action for m in metadata if isinstance(m, OnMissing)]
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    classes = typing.get_args(hint) if is_union else (hint,)
    classes = tuple(cls for cls in classes if cls is not types.NoneType)
    if not all(isinstance(cls, type) for cls in classes):
        classes = ()
    return DeclaredLoading(options, rules[-1] if rules else None, classes)


def _named(hint: Any, scope: Mapping[str, type], seen: list[Any]) -> Iterator[Any]:
    """Everything that the annotation names, including in the fields of classes."""
    if any(hint is other for other in seen):
        return
    seen.append(hint)
    yield hint
    for part in _parts(hint, scope):
        yield from _named(part, scope, seen)


def _parts(hint: Any, scope: Mapping[str, type]) -> Iterator[Any]:
    """The parts of an annotation."""
    if typing.get_origin(hint) is typing.Annotated:
        yield hint.__origin__
        return
    if isinstance(hint, Enum):  # in a `Literal`
        yield type(hint)
        return
    yield typing.get_origin(hint)
    yield from typing.get_args(hint)
    yield getattr(hint, "__supertype__", None)  # of a `NewType`
    if not isinstance(hint, type):
        yield _of_alias(hint)
    elif _has_fields(hint) and not runtime.is_model_class(hint):
        yield from _evaluated(hint, scope)


# --- what an argument may be -----------------------------------------------------------

#: An argument annotated with one of these, or with something that is not a class, can be anything.
_ANYTHING = (object, Any)


def _classes(hint: Any, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The classes of the values that an annotation allows, including those in containers."""
    hint = _of_alias(getattr(hint, "__supertype__", hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if any(hint is other for other in seen) or hint is Ellipsis:
        return
    if origin is typing.Annotated:
        yield from _classes(hint.__origin__, seen)
    elif origin is typing.Literal:
        yield from map(type, arguments)
    elif origin in (typing.Union, types.UnionType) or _is_container(origin):
        for argument in arguments:
            yield from _classes(argument, (*seen, hint))
    else:
        yield object if _is_container(hint) else hint if origin is None else origin


def _is_container(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Iterable) and hint not in (str, bytes)


def _models_allowed(hint: Any) -> tuple[type, ...]:
    """The classes that model instances in an argument may have; empty if any are allowed."""
    classes = tuple(dict.fromkeys(_classes(hint)))
    for cls in classes:
        if cls in _ANYTHING or not isinstance(cls, type) or issubclass(cls, Unknown):
            return ()
        if getattr(cls, "_is_protocol", False):
            return ()
    return classes if any(map(runtime.is_model_class, classes)) else ()
