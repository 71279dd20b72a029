"""Tasks: what `@task` makes of a function.

A `Task` knows its function, its options and how to bind its arguments; calling it gives a `Call`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from ..errors import ConfigurationError
from . import runtime
from .annotations import Annotations, annotations_of
from .argument_check import argument_check, check_models
from .call import Call
from .declaration import Declaration, declaration, function_name, register
from .declaration import registry as registry
from .options import TaskConfig, TaskOptions, check_task_options
from .policies import Keyed, Unique, check_policies, check_shared_names
from .schedule import SCHEDULING, declared_schedules

if TYPE_CHECKING:
    from ..sending.handle import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function whose calls can be put on a queue.

    Args:
        function: The function to run; for a class-based task, what takes its arguments.
        options: The options given to `@task`.
        cls: The class of a class-based task.
        declared: Where it is declared, if not where the `Task` is made.

    Attributes:
        name: The name on the wire.
        function: The function itself, to call it directly.
        is_async: Whether it runs on the event loop; otherwise in a thread or a process.
        declared: Where it is declared.
        schedules: The schedules on which it is called, besides being dispatched.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        options: TaskConfig,
        cls: type[Any] | None = None,
        declared: Declaration | None = None,
    ) -> None:
        self.name = options.get("name") or _default_name(function)
        own: dict[str, Any] = {k: v for k, v in options.items() if k not in SCHEDULING}
        check_task_options(own, f"task {self.name}")
        self.function = function
        self.cls = cls
        self.is_async = _is_async(cls.execute if cls else function, self.name)
        if self.is_async and options.get("process"):
            raise ConfigurationError(f"task {self.name}: process=True is for `def` functions")
        self.schedules = declared_schedules(self.name, options)
        self.declared = declared or declaration()
        self._given = own
        self._options: tuple[object, TaskOptions] | None = None
        self._annotations: tuple[Annotations, Annotations] | None = None
        self._adapters: object = None
        self._modules = 0
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", self.name)
        self.__module__ = function.__module__
        self.__wrapped__ = function
        if self.policies:
            if cls is None:
                check_policies(self, self.policies)
            check_shared_names(self, registry.values())
        register(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Bind the arguments; this does not send or run anything yet.

        Raises:
            TypeError: The arguments do not fit the function's signature, or one is an instance of
                another model than the parameter's annotation names.
        """
        try:
            self.check_arguments(args, kwargs)
        except TypeError as e:
            raise TypeError(f"{self.name}: {e}") from None
        return Call(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def options(self, defaults: Mapping[str, Any]) -> TaskOptions:
        """The task's options on top of these defaults."""
        if self._options is None or self._options[0] is not defaults:
            merged: dict[str, Any] = {**defaults, **self._given}
            self._options = (defaults, TaskOptions(**merged))
        return self._options[1]

    def handle(self, message_id: str, queue: str | None = None) -> TaskHandle[R]:
        """The handle of a call that was dispatched earlier, perhaps by another process.

        Args:
            message_id: The id from its handle.
            queue: The queue it was sent to, if not the task's own.
        """
        return runtime.current().handle(self, message_id, queue)

    @property
    def policies(self) -> Sequence[Keyed]:
        """The declared policies on when its calls may run."""
        unique = self._given.get("unique")
        policies = (
            Unique() if unique is True else unique or None,
            self._given.get("limit"),
            self._given.get("rate"),
        )
        return [policy for policy in policies if policy is not None]

    @property
    def given_queue(self) -> str | None:
        """The queue that it was declared with; `None` for the configured default."""
        return self._given.get("queue")

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature of what takes its arguments; read only after a class's decorators ran."""
        return inspect.signature(self.function)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the positional parameters."""
        return self.annotations.positional

    @property
    def annotations(self) -> Annotations:
        """The parameters' annotations."""
        return self._read_annotations()[0]

    @property
    def result_annotations(self) -> Annotations:
        """The result's annotation."""
        return self._read_annotations()[1]

    def _read_annotations(self) -> tuple[Annotations, Annotations]:
        """Read on first use, and again if a name was unknown and more modules have been loaded.

        Also again if the adapters have changed, as in tests: what counts as a model depends on
        them.
        """
        known, adapters = self._annotations, runtime.load_adapters()
        if (
            known is None
            or self._adapters is not adapters
            or (known[0].problems and self._modules != len(sys.modules))
        ):
            scope = self.declared.classes
            parameters, result = annotations_of(self.function, scope)
            if self.cls is not None:
                _, result = annotations_of(self.cls.execute, scope)
            known = self._annotations = (parameters, result)
            self._adapters, self._modules = adapters, len(sys.modules)
        return known

    def unknown_annotations(self) -> Mapping[str, str]:
        """Problems with annotations by parameter, once everything has been loaded."""
        if self.annotations.problems:
            self._annotations = None  # read again: packages may have been allowed since
        return self.annotations.problems

    def check_arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Raise `TypeError` unless the arguments fit."""
        self._check(args, kwargs)
        annotations, _ = self._read_annotations()
        if annotations.models:
            check_models(annotations, args, kwargs)

    @cached_property
    def _check(self) -> Callable[[Sequence[Any], dict[str, Any]], None]:
        # Made on first use, since a class decorator may replace its `__init__`.
        return argument_check(self.signature)


def _default_name(function: Callable[..., Any]) -> str:
    if not hasattr(function, "__qualname__"):
        raise ConfigurationError(f"a task of {type(function).__qualname__} needs a name=...")
    return function_name(function)


def _is_async(function: Any, name: str) -> bool:
    """Whether calling it gives an awaitable; raises if it cannot be a task."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"task {name}: a function with `yield` cannot be a task")
    return inspect.iscoroutinefunction(function)


def check_annotations(tasks: Iterable[Task[Any, Any]]) -> None:
    """Check that all declarations can be honoured, once every module has been imported.

    Raises:
        ConfigurationError: An annotation cannot be evaluated; names each such task and parameter.
    """
    tasks = [*tasks]  # a copy, since importing what they name may add tasks
    for task in tasks:
        check_policies(task, task.policies)
    problems = [
        f"task {task.name}: the annotation of {parameter!r} cannot be resolved: {problem}"
        for task in tasks
        for parameter, problem in task.unknown_annotations().items()
    ]
    if problems:
        raise ConfigurationError("\n".join(problems))


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
    """Turn a function into a task: `@task`, or `@task(queue=..., max_attempts=...)`.

    An `async def` runs on the worker's event loop; a `def` runs in a thread, or in a process with
    `process=True`. `TaskConfig` describes the options.

    Raises:
        ConfigurationError: An option is unknown or cannot work.
    """
    runtime.load_adapters()
    if function is not None:
        return Task(_plain_function(function), options)
    return lambda f: Task(_plain_function(f), options)


def _plain_function(function: Any) -> Callable[..., Any]:
    """The function to run; raises if it cannot be a task."""
    if isinstance(function, staticmethod):
        function = function.__func__
    if isinstance(function, type):
        raise ConfigurationError(
            f"{function.__qualname__} is a class: a task is a function, or a subclass of "
            f"AsyncTask or SyncTask"
        )
    if isinstance(function, Task):
        raise ConfigurationError(f"{function.name} is a task already")
    if not callable(function):
        raise ConfigurationError(f"a task is a function, not {type(function).__qualname__}")
    return cast("Callable[..., Any]", function)
