"""Calls: a task with one set of arguments, not sent yet, that can be dispatched or run directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import time
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ..config.settings import is_queue_name
from ..durations import DELAY_RULE, is_delay
from ..wire.flow import BatchPlace
from ..wire.message import RESERVED_HEADERS
from . import runtime
from .options import TaskOptions, check_task_options
from .policies import Unique, check_policies

if TYPE_CHECKING:
    from ..sending.handle import TaskHandle
    from .task import Task

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
P = ParamSpec("P")


class Dispatchable(Generic[R_co]):
    """Something that can be dispatched: a call, or an instance of a class-based task.

    Each method that changes a call returns a new one.
    """

    __slots__ = ()

    def _as_call(self) -> Call[R_co]:
        raise NotImplementedError

    def _overridden(self, **options: Any) -> Call[R_co]:
        call = self._as_call()
        check_task_options(options, f"call of {call.task.name}")
        return call._changed(overrides={**(call.overrides or {}), **options})

    def on_queue(self, name: str) -> Call[R_co]:
        """Send to this queue instead of the task's own."""
        call = self._as_call()
        if not is_queue_name(name):
            check_task_options({"queue": name}, f"call of {call.task.name}")
        return call._changed(queue=name)

    def delay(self, seconds: float) -> Call[R_co]:
        """Run no earlier than this many seconds from now."""
        if not isinstance(seconds, int | float):
            raise TypeError(f"delay() takes seconds, not {type(seconds).__name__}")
        if not is_delay(seconds):
            raise ValueError(f"delay({seconds}): it must be {DELAY_RULE}")
        return self._as_call()._changed(due=time() + seconds)

    def at(self, moment: datetime) -> Call[R_co]:
        """Run no earlier than this moment, which must have a time zone.

        Raises:
            ValueError: It has none, so machines in different zones would read it differently.
        """
        if not isinstance(moment, datetime):
            raise TypeError(f"at() takes a datetime, not {type(moment).__name__}")
        if moment.utcoffset() is None:
            raise ValueError(
                "at() takes aware datetimes only; for local time write moment.astimezone()"
            )
        return self._as_call()._changed(due=moment.timestamp())

    def retry_after(self, seconds: float) -> Call[R_co]:
        """Use this `retry_delay`, in seconds."""
        return self._overridden(retry_delay=seconds)

    def max_attempts(self, n: int) -> Call[R_co]:
        """Run at most this many times."""
        return self._overridden(max_attempts=n)

    def timeout(self, seconds: float | None) -> Call[R_co]:
        """Let one run take at most this many seconds."""
        return self._overridden(timeout=seconds)

    def priority(self, n: int) -> Call[R_co]:
        """Run before all waiting calls of lower priority in the queue; -100 to 100."""
        call = self._as_call()
        check_task_options({"priority": n}, f"call of {call.task.name}")
        return call._changed(priority_given=n)

    def unique(self, unique: bool | Unique = True) -> Call[R_co]:
        """Use this instead of the task's own `unique`.

        Raises:
            ConfigurationError: It does not suit this task.
        """
        call = self._as_call()
        check_task_options({"unique": unique}, f"call of {call.task.name}")
        if isinstance(unique, Unique):
            check_policies(call.task, [unique])
        return call._changed(unique_given=unique)

    def on_commit(self, target: object = True) -> Call[R_co]:
        """Decide what the dispatch waits for.

        Args:
            target: `False` sends immediately. `True` waits for the transaction open in this context
                (Django, Tortoise), even if no argument was written in it. A session, a connection
                or a database alias waits for that one's commit.
        """
        if target is None:
            raise TypeError(
                "on_commit(None): name a session, a connection or an alias; True waits for the "
                "transaction of this context, False for none"
            )
        return self._as_call()._changed(wait_for=target)

    def with_headers(self, headers: Mapping[str, str]) -> Call[R_co]:
        """Send these headers along, for tracing; the task reads them from `current_message()`."""
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"with_headers() takes texts, not {name!r:.100}: {value!r:.100}")
            if name in RESERVED_HEADERS:
                raise ValueError(f"with_headers(): {name} is set by workers only")
        call = self._as_call()
        return call._changed(headers={**(call.headers or {}), **headers})

    @overload
    def then(self, following: Dispatchable[S], /) -> Call[S]: ...
    @overload
    def then(
        self,
        following: Callable[Concatenate[R_co, P], Dispatchable[S]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Call[S]: ...
    def then(self, following: Any, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """Make another call follow this one; it is put in the same step that ends this one.

        `first(x).then(second)` is dispatched as one. `second` gets what `first` returns, and the
        handle is that of `second`, with `first` as its `parent`. Further calls may follow. Methods
        that change the call, such as `delay`, apply to the first one. If a call fails for good,
        those after it are not made until it is retried from the dead letters.

        Args:
            following: A task, function or class, whose first argument is the result; or a call,
                which does not get the result.
            args: Further positional arguments for the task.
            kwargs: Further keyword arguments for the task.

        Raises:
            TypeError: The arguments do not fit the task.
            ValueError: The following call has its own delay, or waits for its own transaction.
        """
        call = self._as_call()
        return cast(
            "Call[Any]",
            call._changed(following=(*call.following, *links(following, args, kwargs))),
        )

    async def dispatch(self) -> TaskHandle[R_co]:
        """Put the call on its queue.

        If an argument is an instance written in a still open transaction, sending waits for the
        commit: the handle is returned at once, and nothing is sent if the transaction rolls back.

        Raises:
            SerializationError: An argument cannot travel; names it.
            BrokerUnavailable: The broker did not accept it within its `timeout`. If the connection
                broke before the answer arrived, it may have been added anyway.
        """
        return await runtime.current().dispatch(self._as_call())

    def dispatch_sync(self) -> TaskHandle[R_co]:
        """Like `dispatch`, for synchronous code: blocks until the broker has the call."""
        return runtime.current().dispatch_sync(self._as_call())


@dataclass(frozen=True, slots=True)
class Following:
    """A call that follows another.

    Attributes:
        call: The call, with a placeholder as its first argument if it takes the result.
    """

    call: Call[Any]
    takes_result: bool


def as_call(given: Any, taker: str) -> Call[Any]:
    """The given call.

    Raises:
        TypeError: It is none, such as a task without arguments; names `taker`.
    """
    if not isinstance(given, Dispatchable):
        raise TypeError(
            f"{taker} takes calls, such as send(user), not an object of type "
            f"{type(given).__qualname__}"
        )
    return given._as_call()


def links(following: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Following, ...]:
    """The calls that `Dispatchable.then` with these arguments appends."""
    if isinstance(following, Dispatchable):
        if args or kwargs:
            raise TypeError("then() takes arguments for a task, not for a call")
        call = following._as_call()
        if call.due is not None or call.wait_for is not None:
            raise ValueError(
                f"call of {call.task.name}: what follows another comes when that is done, not "
                f"by delay(), at() or on_commit()"
            )
        return (Following(call, takes_result=False), *call.following)
    task = following if hasattr(following, "check_arguments") else getattr(following, "_task", None)
    if task is None:
        raise TypeError(f"then() takes a task or a call, not {type(following).__qualname__}")
    args = (None, *args)  # a placeholder for the result
    try:
        task.check_arguments(args, kwargs)
    except TypeError as e:
        raise TypeError(
            f"{task.name}, with the result of the call before as its first argument: {e}"
        ) from None
    return (Following(Call(task, args, kwargs), takes_result=True),)


_CHANGEABLE = (
    "following",
    "place",
    "queue",
    "due",
    "overrides",
    "wait_for",
    "headers",
    "priority_given",
    "unique_given",
)


class Call(Dispatchable[R_co]):
    """One call of a task, not sent yet; methods that change it return a new call."""

    __slots__ = (
        "args",
        "due",
        "following",
        "headers",
        "kwargs",
        "overrides",
        "place",
        "priority_given",
        "queue",
        "task",
        "unique_given",
        "wait_for",
    )

    def __init__(self, task: Task[..., R_co], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.queue: str | None = None
        self.due: float | None = None
        self.overrides: dict[str, Any] | None = None
        self.wait_for: object = None
        self.headers: dict[str, str] | None = None
        self.priority_given: int | None = None
        self.unique_given: bool | Unique | None = None
        self.following: tuple[Following, ...] = ()
        self.place: BatchPlace | None = None

    def __repr__(self) -> str:
        return f"<Call of {self.task.name}>"

    def _as_call(self) -> Call[R_co]:
        return self

    def _changed(self, **changes: Any) -> Call[R_co]:
        call = Call(self.task, self.args, self.kwargs)
        for name in _CHANGEABLE:
            setattr(call, name, changes.get(name, getattr(self, name)))
        return call

    async def execute(self) -> R_co:
        """Run here and now with the arguments as they are: no queue, no retries, no copies.

        Calls that follow it run too, one after another.
        """
        result: Any = await runtime.execute(self)
        for link in self.following:
            call = link.call
            if link.takes_result:
                call = Call(call.task, (result, *call.args[1:]), call.kwargs)
            result = await runtime.execute(call)
        return cast("R_co", result)

    def options(self, defaults: Mapping[str, Any]) -> TaskOptions:
        """The task's options with this call's overrides."""
        options = self.task.options(defaults)
        return replace(options, **self.overrides) if self.overrides else options
