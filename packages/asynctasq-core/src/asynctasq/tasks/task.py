"""Tasks: what `@task` makes of a function.

A `Task` knows its function, its options and how its arguments are bound; calling it gives a `Call`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from ..errors import ConfigurationError
from ..wire.class_paths import module_name
from . import runtime
from .annotations import Annotations, annotations_of, enclosing_classes
from .argument_check import argument_check
from .call import Call
from .options import TaskConfig, TaskOptions, check_task_options

if TYPE_CHECKING:
    from ..sending.handle import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")


#: Every task of this process by name; workers run nothing else.
registry: dict[str, Task[Any, Any]] = {}


class Task(Generic[P, R]):
    """A function whose calls can be put on a queue.

    Args:
        function: What is run; for a class-based task, what takes its arguments.
        options: As given to `@task`.
        cls: The class of a class-based task.

    Attributes:
        name: The name on the wire.
        function: The function itself, to call it directly.
        is_async: Whether it runs on the event loop; otherwise in a thread or a process.
    """

    def __init__(
        self, function: Callable[P, Any], options: TaskConfig, cls: type[Any] | None = None
    ) -> None:
        self.name = options.get("name") or function_name(function)
        check_task_options(options, f"task {self.name}")
        self.function = function
        self.cls = cls
        run = cls.execute if cls else function
        if inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run):
            raise ConfigurationError(f"task {self.name}: a function with `yield` cannot be a task")
        self.is_async = inspect.iscoroutinefunction(run)
        if self.is_async and options.get("process"):
            raise ConfigurationError(f"task {self.name}: process=True is for `def` functions")
        self._given = options
        self._options: tuple[object, TaskOptions] | None = None
        self._check = argument_check(function)
        self._scope = enclosing_classes(function)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", self.name)
        self.__module__ = function.__module__
        self.__wrapped__ = function
        _register(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Bind the arguments; nothing is sent or run yet.

        Raises:
            TypeError: They do not fit the function's signature.
        """
        try:
            self._check(args, kwargs)
        except TypeError as e:
            raise TypeError(f"{self.name}: {e}") from None
        return Call(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def options(self, defaults: Mapping[str, Any]) -> TaskOptions:
        """The options over these defaults."""
        if self._options is None or self._options[0] is not defaults:
            merged: dict[str, Any] = {**defaults, **self._given}
            self._options = (defaults, TaskOptions(**merged))
        return self._options[1]

    def handle(self, message_id: str, queue: str | None = None) -> TaskHandle[R]:
        """The handle of a call that was dispatched earlier, perhaps by another process.

        Args:
            message_id: The id that its handle had.
            queue: Where it was sent, if not to the task's own queue.
        """
        return runtime.current().handle(self, message_id, queue)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the positional parameters."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(
            p.name for p in inspect.signature(self.function).parameters.values() if p.kind in kinds
        )

    @cached_property
    def annotations(self) -> Annotations:
        """What the annotations of the parameters say, read at first use."""
        return annotations_of(self.function, self._scope)[0]

    @cached_property
    def result_annotations(self) -> Annotations:
        """What the annotation of the result says."""
        return annotations_of(self.cls.execute if self.cls else self.function, self._scope)[1]

    def check_arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Raise `TypeError` unless the arguments fit."""
        self._check(args, kwargs)


def function_name(function: Callable[..., Any]) -> str:
    """`module.qualname`, with `__main__` replaced by the script's own module name."""
    return f"{module_name(function.__module__)}.{function.__qualname__}"


def _register(task: Task[Any, Any]) -> None:
    other = registry.get(task.name)
    if other is not None and function_name(other.function) != function_name(task.function):
        raise ConfigurationError(
            f"two tasks are named {task.name!r}: {function_name(other.function)} and "
            f"{function_name(task.function)}"
        )
    registry[task.name] = task


class TaskDecorator(Protocol):
    """What `task(...)` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskConfig]) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Unpack[TaskConfig]) -> Any:
    """Make a function a task: `@task`, or `@task(queue=..., max_attempts=...)`.

    An `async def` runs on the worker's event loop, a `def` in a thread, with `process=True` in a
    process. `TaskConfig` describes the options.

    Raises:
        ConfigurationError: An option is unknown or cannot work.
    """
    runtime.load_adapters()
    if function is not None:
        return Task(function, options)
    return lambda f: Task(f, options)
