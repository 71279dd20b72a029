"""Task options: what each means, its default, and its allowed values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_args, get_type_hints

from ..config.fields import unknown_name
from ..config.settings import QUEUE_RULE, is_queue_name
from ..durations import DELAY_RULE, DURATION_RULE, is_delay, is_duration
from ..errors import ConfigurationError
from .annotations import Missing
from .policies import Limit, Rate, Unique
from .schedule import SCHEDULING, CatchUp, Cron, Every

RetryStrategy = Literal["exponential", "fixed"]
Exceptions = type[BaseException] | tuple[type[BaseException], ...]


class TaskConfig(TypedDict, total=False):
    """Options of a task, as `@task(...)` takes them and class-based tasks set them in `config`.

    Keys:
        name: The task's name on the wire; by default `module.qualname`.
        queue: The queue's name; by default `"default"`.
        max_attempts: Maximum number of runs, including the first; by default 3.
        retry_delay: Seconds before the first retry; by default 60.
        retry_strategy: `"exponential"` (the default; doubles, up to a day) or `"fixed"`.
        retry_jitter: Whether to add a random part of up to half the delay; by default `True`.
        retry_on: Exception classes to retry; all others go straight to the dead letters.
        retry_on_outage: Exception classes that mean the network is down. Such a run is put off
            without using up an attempt, for up to the configuration's `outage_for`.
        max_snoozes: How often the task may put a call off with `Snooze`; `None` for no limit.
        timeout: Seconds that one run may take; `None` for no limit.
        process: Run a `def` task in a separate process, from a pool.
        on_missing: What to do when a row is gone: `"fail"` (the default), `"skip"` or `"none"`.
        result_ttl: Seconds to keep the result; `None` keeps none.
        status_ttl: Seconds to keep how the call ended, for `TaskHandle.status`, if no result is
            kept; `None` keeps nothing.
        atomic: Run in one transaction that also records that the call is done. `True` for the
            database of its model instances; or a model; or a database's name.
        unique: `True` or a `Unique`: hold only one of several equal calls at a time.
        limit: A `Limit`: how many calls may run at once.
        rate: A `Rate`: how fast calls may start.
        priority: -100 to 100, by default 0. Waiting calls run before all of lower priority in their
            queue.
        cron: Call it without arguments at the matches of this cron expression.
        timezone: The time zone of `cron`; by default `"UTC"`.
        every: Call it without arguments at multiples of this interval.
        catch_up: Which ticks to make up for after a time without workers: `"last"` (the default),
            `"all"` or `"none"`.
        schedule: Several schedules, with arguments: `Cron` and `Every`.
    """

    name: str
    queue: str
    max_attempts: int
    retry_delay: float
    retry_strategy: RetryStrategy
    retry_jitter: bool
    retry_on: Exceptions | None
    retry_on_outage: Exceptions
    max_snoozes: int | None
    timeout: float | None
    process: bool
    on_missing: Missing
    result_ttl: float | None
    status_ttl: float | None
    atomic: bool | type | str
    unique: bool | Unique
    limit: Limit | None
    rate: Rate | None
    priority: int
    cron: str
    timezone: str
    every: timedelta
    catch_up: CatchUp
    schedule: Sequence[Cron | Every]


class _Rule(NamedTuple):
    """Checks an option's value, and describes in words what is allowed."""

    holds: Callable[[Any], bool]
    words: str


def _one_of(choices: object) -> _Rule:
    texts = get_args(choices)
    return _Rule(
        lambda value: isinstance(value, str) and value in texts,
        " or ".join(f'"{text}"' for text in texts),
    )


def _are_exceptions(value: object) -> bool:
    classes = value if isinstance(value, tuple) else (value,)
    return value is None or all(
        isinstance(c, type) and issubclass(c, BaseException) for c in classes
    )


_ATOMIC = _Rule(
    lambda v: isinstance(v, bool | type) or (isinstance(v, str) and v != ""),
    "True, False, a model, or the name of a database",
)
_BOOL = _Rule(lambda v: isinstance(v, bool), "True or False")
_COUNT = _Rule(
    lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1,
    "a whole number of at least 1",
)
_MOST = _Rule(lambda v: v is None or _COUNT.holds(v), f"{_COUNT.words}, or None")
_DELAY = _Rule(is_delay, DELAY_RULE)
_DURATION = _Rule(is_duration, DURATION_RULE)
_EXCEPTIONS = _Rule(_are_exceptions, "an exception class or a tuple of them")
_OUTAGES = _Rule(lambda v: v is not None and _are_exceptions(v), _EXCEPTIONS.words)
_NAME = _Rule(lambda v: isinstance(v, str) and 0 < len(v) <= 500, "1 to 500 characters")
_QUEUE = _Rule(is_queue_name, QUEUE_RULE)
_UNIQUE = _Rule(lambda v: isinstance(v, bool | Unique), "True, False or a Unique")
_LIMIT = _Rule(lambda v: v is None or isinstance(v, Limit), "a Limit or None")
_RATE = _Rule(lambda v: v is None or isinstance(v, Rate), "a Rate or None")
_PRIORITY = _Rule(
    lambda v: isinstance(v, int) and not isinstance(v, bool) and -100 <= v <= 100,
    "a whole number from -100 to 100",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """A task's options with all defaults filled in; `TaskConfig` says what each means."""

    name: Annotated[str, _NAME] = ""
    queue: Annotated[str, _QUEUE] = "default"
    max_attempts: Annotated[int, _COUNT] = 3
    retry_delay: Annotated[float, _DELAY] = 60.0
    retry_strategy: Annotated[RetryStrategy, _one_of(RetryStrategy)] = "exponential"
    retry_jitter: Annotated[bool, _BOOL] = True
    retry_on: Annotated[Exceptions | None, _EXCEPTIONS] = None
    retry_on_outage: Annotated[Exceptions, _OUTAGES] = ()
    max_snoozes: Annotated[int | None, _MOST] = None
    timeout: Annotated[float | None, _DURATION] = None
    process: Annotated[bool, _BOOL] = False
    on_missing: Annotated[Missing, _one_of(Missing)] = "fail"
    result_ttl: Annotated[float | None, _DURATION] = None
    status_ttl: Annotated[float | None, _DURATION] = None
    atomic: Annotated[bool | type | str, _ATOMIC] = False
    unique: Annotated[bool | Unique, _UNIQUE] = False
    limit: Annotated[Limit | None, _LIMIT] = None
    rate: Annotated[Rate | None, _RATE] = None
    priority: Annotated[int, _PRIORITY] = 0


_RULES: dict[str, _Rule] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(TaskOptions, include_extras=True).items()
}

#: What a task may be given. Schedules are options of a task, but not of its calls.
_KNOWN = (*_RULES, *SCHEDULING)


def check_task_options(options: Mapping[str, Any], where: str) -> None:
    """Check task options.

    Raises:
        ConfigurationError: An option does not exist or cannot work; names `where` and the option.
    """
    for name, value in options.items():
        if name not in _RULES:
            raise ConfigurationError(f"{where}: {unknown_name(name, _KNOWN, 'task option')}")
        holds, words = _RULES[name]
        if not holds(value):
            raise ConfigurationError(f"{where}: {name} must be {words}, not {value!r:.200}")


def check_defaults(options: Mapping[str, Any]) -> None:
    """Refuse defaults for all tasks that only make sense for a single task.

    Raises:
        ConfigurationError: There is one; names the option.
    """
    for name in ("unique", "limit", "rate"):
        if options.get(name):
            raise ConfigurationError(f"task_defaults: {name} is declared by each task for itself")
