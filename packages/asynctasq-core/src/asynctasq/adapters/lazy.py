"""Model instances that fetch themselves on first use.

Needed when a task's ORM is not initialised yet as its message arrives: the task initialises it, and
the first use of the argument fetches the row. Owns the rule that after this first use the argument
cannot be told from a row fetched up front: the object itself becomes the row, class and state
included.

An attribute access cannot suspend a coroutine, but it can suspend a greenlet: `drive` runs each
step of the task's coroutine in a greenlet, and the access switches out to where the fetch is
awaited.
"""

from __future__ import annotations

import asyncio
import importlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import cache
from typing import Any, TypeVar, cast

from ..errors import AsynctasqError, PluginError
from ..wire.reference import Ref

R = TypeVar("R")
Fetch = Callable[[], Awaitable[object]]

#: Methods that Python looks up on the class to make, describe or destroy an object.
_STRUCTURAL = {
    *("__new__", "__init__", "__del__", "__class__", "__sizeof__", "__init_subclass__"),
    *("__subclasshook__", "__class_getitem__", "__set_name__"),
    *("__getattribute__", "__getattr__", "__setattr__", "__delattr__"),
}


def lazy_instance(cls: type, fetch: Fetch, ref: Ref | None = None) -> object:
    """Make an instance of `cls` that becomes the row on first use; call this on the event loop.

    Use means reading, setting or deleting an attribute, calling a method, comparing or printing.
    Reading its class and passing it on do not count. The first use must happen in a coroutine run
    by `drive`, or in a thread other than the loop's.

    Args:
        cls: A class whose instances keep their state in `__dict__`.
        fetch: Awaited on this loop to get the row. Its exception is raised where the instance is
            used, and the next use fetches again. For a deleted row it raises `ReferenceGone`, even
            under `on_missing="none"`: an argument passed as an object can no longer become `None`.
        ref: What `unfetched_reference` returns for it.
    """
    placeholder: object = object.__new__(_unfetched(cls))
    state = object.__getattribute__(placeholder, "__dict__")
    state.update(fetch=fetch, loop=asyncio.get_running_loop(), ref=ref)
    return placeholder


def unfetched_reference(obj: object) -> Ref | None:
    """The reference of a lazy instance not used yet, else `None`; asking does not count as use."""
    if not issubclass(type(obj), _Unfetched):
        return None
    ref: Ref | None = object.__getattribute__(obj, "__dict__")["ref"]
    return ref


async def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine in which lazy instances can fetch themselves.

    Context variables, `current_task()`, cancellation, timeouts and exceptions behave as with a
    plain `await`. Each suspension costs a few microseconds.
    """
    return cast(R, await _steps(coroutine))


class _Unfetched:
    """Mixin placed before a model's class: every use fetches the row first."""

    def __init_subclass__(cls) -> None:
        """Shadow the model's `__init_subclass__`, which would take the placeholder for a model."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return type(self).__mro__[2]
        _become_row(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        _become_row(self)
        setattr(self, name, value)

    def __delattr__(self, name: str) -> None:
        _become_row(self)
        delattr(self, name)


@cache
def _unfetched(cls: type) -> type:
    """The placeholder class for `cls`: a subclass, so that `isinstance` and `==` still work."""
    methods = {
        name: _fetching(name)
        for name in dir(cls)
        if name.startswith("__") and name not in _STRUCTURAL and callable(getattr(cls, name))
    }
    # Empty slots give placeholders the memory layout of `cls`, so that `__class__` can be assigned.
    # `type.__new__` bypasses the model's metaclass, which would register another model.
    members = {**methods, "__slots__": (), "__module__": cls.__module__}
    return type.__new__(type(cls), cls.__name__, (_Unfetched, cls), members)


def _fetching(name: str) -> Callable[..., Any]:
    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        _become_row(self)
        return getattr(type(self), name)(self, *args, **kwargs)

    return method


def _become_row(placeholder: object) -> None:
    if not issubclass(type(placeholder), _Unfetched):
        return  # another thread got here first
    state = object.__getattribute__(placeholder, "__dict__")
    row = _wait_for(state["fetch"], state["loop"], type(placeholder).__name__)
    # Share one dictionary: whoever refers to the fetched row sees what is set on this object.
    object.__setattr__(placeholder, "__dict__", vars(row))
    object.__setattr__(placeholder, "__class__", type(row))


def _wait_for(fetch: Fetch, loop: asyncio.AbstractEventLoop, name: str) -> object:
    if loop is not _running_loop():
        return asyncio.run_coroutine_threadsafe(_awaiting(fetch), loop).result()
    current = step = _greenlet_module().getcurrent()
    while step is not None and not isinstance(step, _step_class()):
        step = step.parent
    if step is None or step.parent is None:
        raise AsynctasqError(
            f"this {name} has not been fetched yet, and cannot be here: use it in the task itself "
            f"first (read any attribute), then in other asyncio tasks and callbacks"
        )
    return step.parent.switch((current, fetch))


async def _awaiting(fetch: Fetch) -> object:
    return await fetch()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, R]) -> Generator[Any, Any, R]:
    getcurrent = _greenlet_module().getcurrent
    advance: Callable[[Any], Any] = coroutine.send
    value: Any = None
    while True:
        step = _step_class()(_step)
        step.gr_context = getcurrent().gr_context
        outcome = step.switch(advance, value)
        while not step.dead:
            waiting, fetch = outcome
            try:
                row = yield from _awaiting(fetch).__await__()
            except BaseException as e:  # noqa: BLE001 - re-raised where the task waits
                step.parent = getcurrent()
                outcome = waiting.throw(e)
            else:
                # Inside an outer `drive`, each resumption comes from a new greenlet.
                step.parent = getcurrent()
                outcome = waiting.switch(row)
        is_result, value = outcome
        if is_result:
            return cast(R, value)
        try:
            value = yield value
            advance = coroutine.send
        except BaseException as e:  # noqa: BLE001 - re-raised where the task waits
            advance, value = coroutine.throw, e


def _step(advance: Callable[[Any], Any], value: Any) -> tuple[bool, Any]:
    try:
        return False, advance(value)
    except StopIteration as e:
        return True, e.value


@cache
def _step_class() -> type[Any]:
    class Step(_greenlet_module().greenlet):  # type: ignore[misc]
        """Runs the coroutine up to its next suspension."""

    return Step


@cache
def _greenlet_module() -> types.ModuleType:
    try:
        return importlib.import_module("greenlet")
    except ImportError as e:
        raise PluginError(
            "arguments that fetch themselves need greenlet: install asynctasq-core[lazy]"
        ) from e
