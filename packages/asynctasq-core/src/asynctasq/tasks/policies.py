"""What a task may declare about its runs: only one of a kind, not too many at once, not too often.

Owns the rule that a declaration which cannot be honoured is refused where it is made. The package
`policies` applies them at dispatch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from ..durations import LONGEST_SECONDS
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .task import Task

By = str | Sequence[str] | Callable[..., Any]
"""A parameter's name, several names, or a function of the call's arguments that gives the key."""

OnConflict = Literal["keep", "replace", "raise"]

#: Bounds on what is stored with each message that has a limit or a rate.
_MOST, _LONGEST_NAME = 1_000_000_000, 200


@dataclass(frozen=True, slots=True)
class Unique:
    """A queue holds at most one call per key at a time.

    A model instance counts as its row, whatever session it came from.

    Attributes:
        by: What makes the key. By default all arguments; `()` gives all calls of the task one key.
        until: What frees the key. `"started"`: a worker takes the call. `"done"`: the call is done,
            dead, cancelled or purged. A timedelta: this time has passed since the dispatch,
            whatever became of the call. By default `"done"`, or `"started"` with
            `on_conflict="replace"`.
        on_conflict: What a dispatch does while the key is taken. `"keep"`: nothing; its handle is
            that of the call holding the key. `"replace"`: if no worker has taken that call yet,
            give it the new arguments and due time. `"raise"`: raise `DuplicateCall`.

    Raises:
        ConfigurationError: One of these values cannot work.
    """

    by: By | None = None
    until: Literal["started", "done"] | timedelta | None = None
    on_conflict: OnConflict = "keep"

    def __post_init__(self) -> None:
        _check_by(self)
        if self.on_conflict not in get_args(OnConflict):
            text = 'on_conflict must be "keep", "replace" or "raise"'
            _refuse(self, f"{text}, not {self.on_conflict!r:.100}")
        until = self.until
        if isinstance(until, timedelta):
            if not 0 < until.total_seconds() <= LONGEST_SECONDS:
                _refuse(self, f"until must be longer than no time at all, not {until}")
        elif until not in ("started", "done", None):
            _refuse(self, f'until must be "started", "done" or a timedelta, not {until!r:.100}')


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` calls with one key run at a time, across all workers.

    The others wait in the key's line and start in the order in which they were dispatched or became
    due. While they wait, they hold no slot and delay no one.

    Attributes:
        most: At least 1.
        by: What makes the key; by default nothing, so that all calls of the task share one key.
        name: All tasks whose limit has this name share it; they must use the same queue.

    Raises:
        ConfigurationError: One of these values cannot work.
    """

    most: int
    by: By | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_by(self)
        _check_name(self)
        if not _is_count(self.most):
            _refuse(self, f"most must be a whole number of at least 1, not {self.most!r:.100}")


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls with one key start no faster than `count` per `seconds`, across all workers (GCRA).

    Starts are spread out: one every `seconds / count`, and up to `burst` at once after a quiet
    time. So no period of `seconds` sees more than `count + burst - 1` starts. Calls over the rate
    start as soon as it allows, in the order in which they were dispatched or became due. Retries
    count again.

    Attributes:
        count: At least 1.
        seconds: The period in seconds; more than 0.
        by: What makes the key; by default nothing, so that all calls of the task share one key.
        burst: At least 1.
        name: All tasks whose rate has this name share it; they must use the same queue.

    Raises:
        ConfigurationError: One of these values cannot work.
    """

    count: int
    seconds: float
    by: By | None = None
    burst: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        _check_by(self)
        _check_name(self)
        for name, value in (("count", self.count), ("burst", self.burst)):
            if not _is_count(value):
                _refuse(self, f"{name} must be a whole number of at least 1, not {value!r:.100}")
        is_number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not is_number or not 0 < self.seconds <= LONGEST_SECONDS:
            _refuse(self, f"seconds must be a number above 0, not {self.seconds!r:.100}")


Keyed = Unique | Limit | Rate


def check_policies(task: Task[Any, Any], policies: Iterable[Keyed]) -> None:
    """Check that a task's parameters can give these keys.

    Raises:
        ConfigurationError: They cannot; names the task and what is wrong.
    """
    parameters = task.signature.parameters
    for policy in policies:
        where = f"task {task.name}: {_kind(policy)}"
        if callable(policy.by):
            _check_function(where, policy.by, task.signature)
            continue
        for name in names(policy):
            if name not in parameters:
                known = ", ".join(parameters) or "none"
                raise ConfigurationError(f"{where}: no parameter {name!r} for by=; it has {known}")


def check_shared_names(task: Task[Any, Any], others: Iterable[Task[Any, Any]]) -> None:
    """Check that tasks sharing a named limit or rate agree on its numbers and on the queue.

    Raises:
        ConfigurationError: Two tasks do not; names both.
    """
    for mine in task.policies:
        for other in others:
            for its in other.policies:
                _check_shared(task, mine, other, its)


def _check_shared(task: Task[Any, Any], mine: Keyed, other: Task[Any, Any], its: Keyed) -> None:
    if isinstance(mine, Unique) or isinstance(its, Unique) or type(mine) is not type(its):
        return
    if mine.name is None or mine.name != its.name or other.name == task.name:  # declared again
        return
    both = f"tasks {task.name} and {other.name} share the {_kind(mine)} {mine.name!r}"
    if task.given_queue != other.given_queue:
        raise ConfigurationError(f"{both}, but have different queues")
    if replace(mine, by=None) != replace(its, by=None):
        raise ConfigurationError(f"{both}, but with different numbers")


def names(policy: Keyed) -> Sequence[str]:
    """The parameters that make the key; empty if there are none or a function makes it."""
    by = policy.by
    return () if by is None or callable(by) else (by,) if isinstance(by, str) else by


def _check_function(where: str, by: Callable[..., Any], signature: inspect.Signature) -> None:
    if inspect.iscoroutinefunction(by):
        raise ConfigurationError(f"{where}: by= must be a `def` function: it runs at the dispatch")
    kinds = inspect.Parameter
    parameters = signature.parameters.values()
    if any(p.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for p in parameters):
        return  # what it will be called with is not known yet
    args = [None for p in parameters if p.kind is not kinds.KEYWORD_ONLY]
    kwargs = {p.name: None for p in parameters if p.kind is kinds.KEYWORD_ONLY}
    try:
        inspect.signature(by).bind(*args, **kwargs)
    except TypeError as e:
        raise ConfigurationError(
            f"{where}: by= is called with the arguments of the task: {e}"
        ) from None
    except ValueError:  # a C function without a signature
        return


def _check_by(policy: Keyed) -> None:
    by = policy.by
    if by is None or callable(by) or isinstance(by, str):
        return
    if not isinstance(by, tuple | list) or not all(isinstance(name, str) for name in by):
        _refuse(policy, f"by must be a parameter's name, several, or a function, not {by!r:.100}")


def _check_name(policy: Limit | Rate) -> None:
    name = policy.name
    is_text = isinstance(name, str) and name.isprintable()
    if name is not None and not (is_text and 0 < len(name) <= _LONGEST_NAME):
        _refuse(
            policy, f"name must be 1 to {_LONGEST_NAME} printable characters, not {name!r:.100}"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST


def _kind(policy: Keyed) -> str:
    return type(policy).__name__.lower()


def _refuse(policy: Keyed, problem: str) -> NoReturn:
    raise ConfigurationError(f"{type(policy).__name__}: {problem}")
