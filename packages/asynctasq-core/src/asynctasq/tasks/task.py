"""Tasks and calls: what `@task` makes of a function, and what calling it gives.

A `Task` knows its function, its options and how its arguments are bound; a `Call` is one set of
arguments, checked against the signature, that can be dispatched or run at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from time import time
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from ..config.fields import LONGEST_SECONDS
from ..config.settings import TaskConfig, check_task_options, is_queue_name
from ..errors import ConfigurationError
from ..wire.class_paths import module_name
from .annotations import Hints, Missing, enclosing_classes, hints_of
from .argument_check import signature_check

if TYPE_CHECKING:
    from ..sending.handle import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """A task's options with every default filled in; `TaskConfig` says what each means."""

    name: str = ""
    queue: str = "default"
    max_attempts: int = 3
    retry_delay: float = 60.0
    retry_strategy: Literal["exponential", "fixed"] = "exponential"
    retry_jitter: bool = True
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None
    timeout: float | None = None
    process: bool = False
    on_missing: Missing = "fail"
    result_ttl: float | None = None


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
        self._check = signature_check(function)
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

    def options(self, defaults: TaskConfig) -> TaskOptions:
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
        from ..app import current

        return current().handle(self, message_id, queue)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the positional parameters."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(
            p.name for p in inspect.signature(self.function).parameters.values() if p.kind in kinds
        )

    @cached_property
    def hints(self) -> tuple[Hints, Hints]:
        """What the annotations of parameters and result say, read at first use."""
        parameters, result = hints_of(self.function, self._scope)
        if self.cls is not None:
            _, result = hints_of(self.cls.execute, self._scope)
        return parameters, result

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


class Call(Generic[R_co]):
    """One call of a task, not yet sent; each method that changes it returns a new one."""

    __slots__ = ("args", "due", "headers", "kwargs", "overrides", "queue", "task", "wait_for")

    def __init__(
        self, task: Task[..., R_co], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.queue: str | None = None
        self.due: float | None = None
        self.overrides: dict[str, Any] | None = None
        self.wait_for: object = None
        self.headers: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<Call of {self.task.name}>"

    def _changed(self, **changes: Any) -> Call[R_co]:
        call = Call(self.task, self.args, self.kwargs)
        for name in ("queue", "due", "overrides", "wait_for", "headers"):
            setattr(call, name, changes.get(name, getattr(self, name)))
        return call

    def _overridden(self, **options: Any) -> Call[R_co]:
        check_task_options(options, f"call of {self.task.name}")
        return self._changed(overrides={**(self.overrides or {}), **options})

    def on_queue(self, name: str) -> Call[R_co]:
        """Send to this queue instead of the task's own."""
        if not is_queue_name(name):
            check_task_options({"queue": name}, f"call of {self.task.name}")
        return self._changed(queue=name)

    def delay(self, seconds: float) -> Call[R_co]:
        """Run no earlier than this many seconds from now."""
        if not isinstance(seconds, int | float):
            raise TypeError(f"delay() takes seconds, not {type(seconds).__name__}")
        if not 0 <= seconds <= LONGEST_SECONDS:
            raise ValueError(f"delay({seconds}): seconds must be 0 to 1e9")
        return self._changed(due=time() + seconds)

    def at(self, moment: datetime) -> Call[R_co]:
        """Run no earlier than this moment; a naive one is local time, as everywhere in Python."""
        if not isinstance(moment, datetime):
            raise TypeError(f"at() takes a datetime, not {type(moment).__name__}")
        return self._changed(due=moment.timestamp())

    def retry_after(self, seconds: float) -> Call[R_co]:
        """Use this `retry_delay`."""
        return self._overridden(retry_delay=seconds)

    def max_attempts(self, n: int) -> Call[R_co]:
        """Run at most this often."""
        return self._overridden(max_attempts=n)

    def timeout(self, seconds: float | None) -> Call[R_co]:
        """Let one run take at most this many seconds."""
        return self._overridden(timeout=seconds)

    def on_commit(self, target: object = True) -> Call[R_co]:
        """Decide what a dispatch waits for.

        Args:
            target: `False` sends at once. `True` waits for the transaction that is open in this
                context (Django, Tortoise) even if no argument was written in it. A session, a
                connection or a database alias: wait for that one's commit.
        """
        return self._changed(wait_for=target)

    def with_headers(self, headers: Mapping[str, str]) -> Call[R_co]:
        """Send these along, for tracing; the task reads them from `current_message()`."""
        return self._changed(headers={**(self.headers or {}), **headers})

    async def dispatch(self) -> TaskHandle[R_co]:
        """Put the call on its queue.

        An instance written in a transaction that is still open makes this wait for the commit: the
        handle is returned at once, and nothing is sent if the transaction is rolled back.

        Raises:
            SerializationError: An argument cannot travel; names it.
            BrokerUnavailable: The broker did not take it within its `timeout`. It may have been
                added all the same if the connection broke while the answer was under way.
        """
        from ..app import current

        return await current().dispatch(self)

    def dispatch_sync(self) -> TaskHandle[R_co]:
        """`dispatch` for synchronous code: blocks until the broker has the call."""
        from ..app import current

        return current().dispatch_sync(self)

    async def execute(self) -> R_co:
        """Run here and now with the arguments as they are, without queue, retries or copies."""
        from ..worker.execution import execute_call

        result: R_co = await execute_call(self)
        return result

    def options(self, defaults: TaskConfig) -> TaskOptions:
        """The task's options with this call's overrides."""
        options = self.task.options(defaults)
        return replace(options, **self.overrides) if self.overrides else options


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
def task(
    *,
    name: str = ...,
    queue: str = ...,
    max_attempts: int = ...,
    retry_delay: float = ...,
    retry_strategy: Literal["exponential", "fixed"] = ...,
    retry_jitter: bool = ...,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = ...,
    timeout: float | None = ...,
    process: bool = ...,
    on_missing: Missing = ...,
    result_ttl: float | None = ...,
) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@task`, or `@task(queue=..., max_attempts=...)`.

    An `async def` runs on the worker's event loop, a `def` in a thread, with `process=True` in a
    process. `TaskConfig` describes the options.

    Raises:
        ConfigurationError: An option is unknown or cannot work.
    """
    from ..adapters.plugins import installed

    installed()  # adapters watch sessions from here on, before the first row is written
    if function is not None:
        return Task(function, {})
    return lambda f: Task(f, TaskConfig(**options))  # type: ignore[typeddict-item]
