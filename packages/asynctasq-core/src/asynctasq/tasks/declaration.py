"""Where tasks are declared, and this process's tasks by name.

Owns the rule that a name belongs to one declaration. Closures, loops and decorators without
`functools.wraps` make several functions with one name, and the last would run for all of them. A
module that runs again, because it or a notebook cell was reloaded, declares the same task again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..wire.class_paths import module_name

if TYPE_CHECKING:
    from .task import Task

#: All of this process's tasks by name; workers run nothing else.
registry: dict[str, Task[Any, Any]] = {}

#: The names declared by function calls that are still running, by the call's frame. Two
#: declarations under one call are two tasks; a later call declares the same task again.
_under_way: dict[FrameType, set[str]] = {}

#: Maximum number of calls between such a call and the declaration, for functions that make
#: functions. A module's code is the outermost call that counts.
_CALLS_BETWEEN = 3


@dataclass(frozen=True, slots=True)
class Declaration:
    """Where a task is declared.

    Attributes:
        place: File and line.
        module: The module whose code declares the task, perhaps through a function in another.
        classes: The local classes of the function that declares it.
    """

    place: str
    module: str
    classes: Mapping[str, type]


def declaration() -> Declaration:
    """The declaration of the task being made."""
    frames = _frames()
    here = frames[0]
    of_module = next((frame for frame in frames if _is_of_module(frame)), frames[-1])
    names = {} if of_module is here else here.f_locals
    return Declaration(
        place=f"{here.f_code.co_filename}:{here.f_lineno}",
        module=module_name(str(of_module.f_globals.get("__name__"))),
        classes={name: value for name, value in names.items() if isinstance(value, type)},
    )


def _frames() -> list[FrameType]:
    """The frames of the running calls, from the one that declares the task outwards."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frames or not _is_ours(frame):
            frames.append(frame)
        frame = frame.f_back
    return frames


def _is_ours(frame: FrameType) -> bool:
    is_ours = str(frame.f_globals.get("__name__")).partition(".")[0] == "asynctasq"
    return is_ours and frame.f_back is not None


def _is_of_module(frame: FrameType) -> bool:
    is_function = frame.f_code.co_flags & CO_OPTIMIZED
    return not is_function and frame.f_locals is frame.f_globals


def function_name(function: Callable[..., Any]) -> str:
    """`module.qualname`, with `__main__` replaced by the script's own module name."""
    return f"{module_name(function.__module__)}.{function.__qualname__}"


def register(task: Task[Any, Any]) -> None:
    """Let workers run the task under its name.

    Raises:
        ConfigurationError: Another task already has this name.
    """
    frames = _frames()
    for frame in _under_way.keys() - set(frames):
        del _under_way[frame]
    earlier = registry.get(task.name)
    if earlier is not None and _are_two(earlier, task):
        raise ConfigurationError(
            f"two tasks are named {task.name!r}, at {earlier.declared.place} and "
            f"{task.declared.place}: give each a name=..., or use functools.wraps where a "
            f"decorator makes the function"
        )
    registry[task.name] = task
    near = frames[: _CALLS_BETWEEN + 1]
    call = next((frame for frame in near if _is_of_module(frame)), near[-1])
    _under_way.setdefault(call, set()).add(task.name)


def forget(task: Task[Any, Any]) -> None:
    """Unregister the task, because another takes its place."""
    if registry.get(task.name) is task:
        del registry[task.name]


def _are_two(earlier: Task[Any, Any], task: Task[Any, Any]) -> bool:
    if _identity(earlier) != _identity(task) or earlier.declared.module != task.declared.module:
        return True
    if earlier.declared.place == task.declared.place and _module(earlier) != _module(task):
        return False  # a script that imports itself by its own name
    return any(task.name in names for names in _under_way.values())


def _module(task: Task[Any, Any]) -> object:
    return getattr(task.function, "__module__", None)


def _identity(task: Task[Any, Any]) -> object:
    """Something that two declarations of the same task have in common."""
    try:
        return function_name(task.function)
    except AttributeError:  # a partial, or an object that can be called
        return type(task.function)
