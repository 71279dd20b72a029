"""Turns a class into the path that travels, and an untrusted path back into a class.

Owns the rule that a payload can only import modules under packages that the application allowed. A
path is looked up among aliases, classes already dispatched from here and loaded modules; only then
is it imported, and only from an allowed package. The lookup reads `__dict__` alone, so no attribute
access runs code, and it yields a class, which an adapter must still recognise.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from ..errors import InvalidReference, UnknownModel

_aliases: dict[str, type] = {}
_found: dict[str, type] = {}
_paths: dict[type, str] = {}
_packages: set[str] = set()


def main_module_name() -> str:
    """The name by which another process imports this process's `__main__`."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name: str = spec.name
        return name.removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return module_of_file(Path(file))[0] if file else "__main__"


@cache
def module_of_file(path: Path) -> tuple[str, Path]:
    """A file's import name, including its packages, and the folder to import it from.

    A script gets the same name when it runs itself, so that a worker finds what it dispatched.
    """
    path = path.resolve()
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def module_name(module: str) -> str:
    """`module`, with `__main__` replaced by the script's own name."""
    return main_module_name() if module == "__main__" else module


def class_path(cls: type) -> str:
    """The model's `module.qualname`, as references carry it; `find_class` finds it from now on."""
    path = _paths.get(cls)
    if path is None:
        path = _paths[cls] = f"{module_name(cls.__module__)}.{cls.__qualname__}"
    _found[path] = cls
    return path


def alias_model(path: str, cls: type) -> None:
    """Let references that carry an old path find a class that was renamed or moved.

    Args:
        path: The `module.qualname` that messages still carry.
        cls: The model today.
    """
    if not isinstance(cls, type):
        raise TypeError(f"alias_model({path!r}, ...) expects a class, not {cls!r}")
    _aliases[path] = cls


def allow_packages(modules: Iterable[str]) -> None:
    """Allow importing models from the top-level packages of these modules."""
    _packages.update(module.partition(".")[0] for module in modules)


def is_allowed(module: str) -> bool:
    """Whether models may be imported from the module's package."""
    return module.partition(".")[0] in _packages


def loaded_classes(name: str, packages: Iterable[str] = ()) -> set[type]:
    """The classes of this name in the loaded modules of the allowed packages and of `packages`."""
    packages = _packages.union(packages)
    found = set()
    for module, content in [*sys.modules.items()]:
        if module.partition(".")[0] in packages:
            cls = class_in(static_dict(content), [name])
            if cls is not None:
                found.add(cls)
    return found


def find_class(path: str) -> type:
    """The class at this path.

    Raises:
        InvalidReference: No such class is loaded, and its package is not allowed.
        UnknownModel: Its package is allowed, but there is no such class.
    """
    # Compare with None, not by truth: a metaclass can make its classes falsy.
    cls = _aliases.get(path, _found.get(path))
    if cls is None:
        parts = path.split(".", _MOST_PARTS)
        # Importing a `__main__` would run a program.
        if len(parts) > _MOST_PARTS or not all(p.isidentifier() and p != "__main__" for p in parts):
            raise InvalidReference(f"{path[:200]!r} is not the path of a class")
        cls = _among_loaded(parts)
        if cls is None:
            cls = _imported(path, parts)
        _found[path] = cls
    return cls


_MOST_PARTS = 20


def _among_loaded(parts: list[str]) -> type | None:
    for i in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:i])
        module = sys.modules.get(name)
        if module is None and name == main_module_name():
            module = sys.modules.get("__main__")
        if module is not None:
            return class_in(static_dict(module), parts[i:])
    return None


def class_in(namespace: Mapping[str, object], names: Sequence[str]) -> type | None:
    """Follow the names from namespace to nested class, without running anyone's code."""
    found: object = None
    for name in names:
        found = namespace.get(name)
        # `isinstance` would read `__class__`, which wakes lazy objects and proxies.
        if not issubclass(type(found), type):
            return None
        namespace = _DICT_OF_CLASS(found)
    return cast("type | None", found)


def static_dict(module: object) -> Mapping[str, object]:
    """A module's contents, read without triggering a module that loads itself on first use."""
    try:
        names: Mapping[str, object] = object.__getattribute__(module, "__dict__")
    except AttributeError:  # sys.modules may hold any object
        return {}
    return names


#: The true `__dict__` of a class: a metaclass may override the attribute.
_DICT_OF_CLASS: Callable[[Any], Mapping[str, object]] = type.__dict__["__dict__"].__get__


def _imported(path: str, parts: list[str]) -> type:
    if parts[0] not in _packages:
        raise InvalidReference(
            f"{path[:200]!r} is not loaded and lies outside the application's packages; import it "
            f"in a module given to the worker, list its package in model_modules, or use "
            f"alias_model"
        )
    for i in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:i])
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name and (name == e.name or name.startswith(e.name + ".")):
                continue
            raise
        except SystemExit as e:  # a script without a main guard must not end the worker
            raise InvalidReference(f"importing {name!r} for a reference ended the program") from e
        # Not `static_dict`: a module that loads itself on first use may do so here.
        if (cls := class_in(module.__dict__, parts[i:])) is not None:
            return cls
        break
    raise UnknownModel(f"there is no class {path[:200]!r}; if it was renamed, use alias_model")
