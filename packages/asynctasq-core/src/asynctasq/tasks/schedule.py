"""Schedules as tasks declare them: a timetable, arguments, and what to do about missed ticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

from ..errors import ConfigurationError
from .timetable import Timetable, timetable

#: Which ticks to make up for if no worker was there: the last one, all, or none.
CatchUp = Literal["last", "all", "none"]

#: Options of a task that schedule it.
SCHEDULING = ("cron", "timezone", "every", "catch_up", "schedule")


@dataclass(frozen=True, slots=True)
class Cron:
    """Calls of a task at the matches of a cron expression: five fields, or six with seconds first.

    Attributes:
        timezone: The expression's time zone, such as `"Europe/Berlin"`.
        args: The call's positional arguments.
        kwargs: The call's keyword arguments.
        name: The schedule's name; by default the task's name and the timetable.
        catch_up: Which missed ticks to make up for.
    """

    expression: str
    timezone: str = "UTC"
    args: Sequence[Any] = field(default=(), kw_only=True)
    kwargs: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    catch_up: CatchUp = field(default="last", kw_only=True)

    def timetable(self) -> Timetable:
        """When it is to run."""
        return timetable(self.expression, self.timezone, None, None)


@dataclass(frozen=True, slots=True)
class Every:
    """Calls of a task at multiples of an interval, counted from the start of 1970 UTC.

    Attributes:
        args, kwargs, name, catch_up: As in `Cron`.
    """

    interval: timedelta
    args: Sequence[Any] = field(default=(), kw_only=True)
    kwargs: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    catch_up: CatchUp = field(default="last", kw_only=True)

    def timetable(self) -> Timetable:
        """When it is to run."""
        return timetable(None, None, self.interval, None)


@dataclass(frozen=True, slots=True)
class DeclaredSchedule:
    """One schedule of a task."""

    name: str
    timetable: Timetable
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    catch_up: CatchUp


def declared_schedules(task: str, options: Mapping[str, Any]) -> tuple[DeclaredSchedule, ...]:
    """The schedules among a task's options.

    Raises:
        ConfigurationError: One of them cannot work; names the task.
    """
    cron, timezone, every, catch_up, several = map(options.get, SCHEDULING)
    if not any(name in options for name in SCHEDULING):
        return ()
    found: list[DeclaredSchedule] = []
    try:
        if several is None or cron is not None or every is not None:
            check_catch_up(catch_up or "last")
            table = timetable(cron, timezone, every, None)
            found.append(DeclaredSchedule(task, table, (), {}, catch_up or "last"))
        elif timezone is not None or catch_up is not None:
            raise ValueError("timezone and catch_up go into each Cron and Every of schedule=")
        if several is not None and not isinstance(several, list | tuple):
            raise TypeError(f"schedule must be a list, not {type(several).__name__}")
        for one in several or ():
            if not isinstance(one, Cron | Every):
                raise TypeError(f"schedule must hold Cron and Every, not {type(one).__name__}")
            check_catch_up(one.catch_up)
            table = one.timetable()
            name = check_name(one.name or f"{task} {table}")
            found.append(DeclaredSchedule(name, table, one.args, one.kwargs, one.catch_up))
    except (ValueError, TypeError) as e:
        raise ConfigurationError(f"task {task}: {e}") from e
    names = [schedule.name for schedule in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(
            f"task {task}: two schedules are named {min(twice)!r}; give each a name=..."
        )
    return tuple(found)


def check_catch_up(catch_up: object) -> None:
    """Raise `ValueError` unless this is a `CatchUp`."""
    if catch_up not in get_args(CatchUp):
        raise ValueError(f'catch_up must be "last", "all" or "none", not {catch_up!r:.100}')


def check_name(name: object) -> str:
    """Return the name if a schedule may have it; otherwise raise `ValueError`."""
    if not isinstance(name, str) or not 0 < len(name) <= 500:
        raise ValueError(f"a schedule's name must be 1 to 500 characters, not {name!r:.100}")
    return name
