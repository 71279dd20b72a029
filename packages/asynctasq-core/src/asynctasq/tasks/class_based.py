"""Class-based tasks: arguments in `__init__`, work in `execute`, and hooks around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import runtime
from .call import Call, Dispatchable
from .declaration import forget
from .evaluation import own_annotations
from .options import TaskConfig
from .task import Task

if TYPE_CHECKING:
    from ..sending.handle import TaskHandle

R = TypeVar("R")


class _ClassTask(Dispatchable[R]):
    """What both kinds of class-based tasks share; a subclass with `execute` is a task."""

    config: TaskConfig = TaskConfig()
    _task: ClassVar[Task[..., Any]]
    _call: Call[R]
    _is_async: ClassVar[bool]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        execute = getattr(cls, "execute", None)
        if "_is_async" in cls.__dict__ or execute is None or inspect.isabstract(cls):
            return
        if inspect.iscoroutinefunction(execute) != cls._is_async:
            kind = "async def" if cls._is_async else "def"
            raise TypeError(f"{cls.__qualname__}.execute must be `{kind}`")
        runtime.load_adapters()
        # A name belongs to one class, so a subclass does not inherit it.
        own = cls.__dict__.get("config", {})
        options: TaskConfig = {**cls.config}
        if "name" not in own:
            options.pop("name", None)
        # `@dataclass(slots=True)` and the like copy a class, with its attributes, to a new one.
        copied: Task[..., Any] | None = cls.__dict__.get("_task")
        if copied is not None:
            forget(copied)
        _keep_out_of_fields(cls)
        cls._task = Task(_Constructor(cls), options, cls, copied.declared if copied else None)

    if not TYPE_CHECKING:  # its signature would hide that of the subclass's `__init__`

        def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
            self = super().__new__(cls)
            if hasattr(cls, "_task"):
                # A frozen class overrides `__setattr__`.
                object.__setattr__(self, "_call", cls._task(*args, **kwargs))
            return self

    def failed(self, exc: BaseException) -> Any:
        """Called after the last attempt has failed; may be `async def` in an `AsyncTask`.

        If the call was cancelled while it ran, `exc` is a `TaskCancelled`.

        Not called if there is no instance: after a timeout or crash with `process=True`, if a row
        is gone, if the message cannot be read, or if it was delivered more than `max_deliveries`
        times.
        """

    def should_retry(self, exc: BaseException) -> bool:
        """Called after a failure that would be retried: should it run again?

        Not called after a timeout or crash with `process=True`; those are retried.
        """
        return True

    @classmethod
    def handle(cls, message_id: str, queue: str | None = None) -> TaskHandle[R]:
        """As `Task.handle`."""
        return cls._task.handle(message_id, queue)

    def _as_call(self) -> Call[R]:
        return self._call


class AsyncTask(_ClassTask[R]):
    """A task as a class whose `execute` runs on the event loop.

    Subclass it, take the arguments in `__init__`, and set options in `config`.
    """

    _is_async = True


class SyncTask(_ClassTask[R]):
    """A task as a class whose `execute` runs in a thread, or in a process with `process=True`."""

    _is_async = False


def _keep_out_of_fields(cls: type[Any]) -> None:
    """Keep `@dataclass` from taking the annotated `config` for a field."""
    annotations = own_annotations(cls)
    if "config" in annotations:
        cls.__annotations__ = {**annotations, "config": ClassVar[TaskConfig]}


class _Constructor:
    """A class's `__init__` as a function of its arguments, without `self`.

    Evaluated lazily, since `@dataclass` adds an `__init__` to the class afterwards.
    """

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls
        self.__module__, self.__qualname__ = cls.__module__, cls.__qualname__
        self.__name__, self.__doc__ = cls.__name__, cls.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cls(*args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        init: Callable[..., Any] = self._cls.__init__
        return init

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return dict(own_annotations(self.__wrapped__))

    @property
    def __signature__(self) -> inspect.Signature:
        if self._cls.__init__ is object.__init__:
            return inspect.Signature()
        signature = inspect.signature(self._cls.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])
