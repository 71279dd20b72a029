"""Evaluates annotations, even if they use names that are unknown at runtime.

Models and tasks often import each other, so a task's module may import the model only under
`if TYPE_CHECKING:`. Owns the rule that such an annotation keeps its meaning: its names are looked
up where the module's source imports them from, or else among the application's classes.
"""

from __future__ import annotations

import ast
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from typing import Any, cast

from ..wire.class_paths import is_allowed, loaded_classes, static_dict
from . import runtime

if sys.version_info >= (3, 14):
    import annotationlib


class _UnknownType(type):
    problem: str
    is_foreign: bool

    def __getattr__(cls, name: str) -> type:
        """An attribute of an unknown module is unknown, too."""
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, item: object) -> type:
        return cls


class Unknown(metaclass=_UnknownType):
    """Stands for something unknown here; each name gets a subclass.

    Attributes:
        problem: Why it is unknown.
        is_foreign: Whether it is imported from a package outside the application.
    """

    problem = ""
    is_foreign = False


class Names(dict[str, Any]):
    """The names available to one module's annotations, plus those found for unknown ones."""

    def __init__(self, module: str, names: Mapping[str, Any]) -> None:
        super().__init__(names)
        self._module = module

    def add(self, name: str) -> None:
        """Look up a name that was not known."""
        self[name] = _found(name, self._module)

    def evaluate(self, annotation: Any) -> Any:
        """Evaluate an annotation, looking up unknown names.

        Raises:
            Exception: Whatever it raises, except `NameError` for a name that can be looked up.
        """

        def holder() -> None: ...

        holder.__annotations__ = {"annotation": _text(annotation)}
        while True:
            try:
                return typing.get_type_hints(holder, self, include_extras=True)["annotation"]
            except NameError as e:
                if not e.name or e.name in self:
                    raise
                self.add(e.name)


def names_of(holder: Any, scope: Mapping[str, type]) -> Names:
    """The names available to the annotations of a class or function."""
    if isinstance(holder, type):
        module = vars(sys.modules.get(holder.__module__, object))
        return Names(holder.__module__, {**module, **scope, **vars(holder)})
    function = inspect.unwrap(holder)
    names = {**getattr(function, "__globals__", {}), **scope, **_closure(function)}
    return Names(str(getattr(function, "__module__", "")), names)


def own_annotations(holder: Any) -> Mapping[str, Any]:
    """A class's own annotations, or a function's; each is an object or its source text."""
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(holder, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(holder)


def _text(annotation: Any) -> Any:
    """The source text, if Python 3.14 could not evaluate the annotation yet."""
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    return annotation


def _closure(function: Callable[..., Any]) -> Mapping[str, Any]:
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if hasattr(function, "__code__") else ()
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


# --- names that are imported for type checkers only ------------------------------------


def _found(name: str, module: str) -> Any:
    """What the name stands for; a subclass of `Unknown` if that cannot be found out."""
    if (target := _typing_imports(module).get(name)) is not None:
        try:
            return _imported(*target, module)
        except Exception as e:  # noqa: BLE001 - importing runs the application's code
            return _unknown(name, f"{type(e).__name__}: {e}")
    classes = loaded_classes(name, [module.partition(".")[0]])
    models = {cls for cls in classes if runtime.is_model_class(cls)}
    for candidates in (models, classes):
        if len(candidates) == 1:
            return candidates.pop()
    count = "several classes have this name" if classes else "nothing of this name is loaded"
    return _unknown(name, count)


def _unknown(name: str, problem: str, *, is_foreign: bool = False) -> type[Unknown]:
    problem = f"{name!r} is not known at runtime: {problem}"
    contents = {"problem": problem, "is_foreign": is_foreign}
    return cast("type[Unknown]", _UnknownType(name, (Unknown,), contents))


def _imported(source: str, attribute: str, module: str) -> Any:
    is_ours = is_allowed(source) or source.partition(".")[0] == module.partition(".")[0]
    if source not in sys.modules and is_allowed(source):
        import_module(source)
    found = sys.modules.get(source)
    if found is None:
        problem = f"{source}, from where type checkers import it, is not loaded"
        return _unknown(attribute or source, problem, is_foreign=not is_ours)
    if not attribute:
        return found
    names = static_dict(found)
    if attribute in names:
        return names[attribute]
    if f"{source}.{attribute}" in sys.modules:
        return sys.modules[f"{source}.{attribute}"]
    return getattr(found, attribute)  # a module may create names on demand


@cache
def _typing_imports(module: str) -> dict[str, tuple[str, str]]:
    """What the module imports only for type checkers: name -> source module and name there."""
    content = sys.modules.get(module)
    try:
        tree = ast.parse(inspect.getsource(content)) if content is not None else ast.Module([], [])
    except (OSError, TypeError, SyntaxError):  # no source, as in a shell
        return {}
    package = getattr(content, "__package__", None) or ""
    found: dict[str, tuple[str, str]] = {}
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and _is_for_type_checkers(block.test):
            for statement in block.body:
                found.update(_names_imported(statement, package))
    return found


def _is_for_type_checkers(test: ast.expr) -> bool:
    return getattr(test, "attr", getattr(test, "id", "")) == "TYPE_CHECKING"


def _names_imported(statement: ast.AST, package: str) -> Iterator[tuple[str, tuple[str, str]]]:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            first = alias.name.partition(".")[0]
            yield (alias.asname or first), (alias.name if alias.asname else first, "")
    if isinstance(statement, ast.ImportFrom):
        relative = "." * statement.level + (statement.module or "")
        source = resolve_name(relative, package) if statement.level else relative
        for alias in statement.names:
            yield (alias.asname or alias.name), (source, alias.name)
