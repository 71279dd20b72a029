"""Schedules made at runtime, and operations on all schedules.

Owns the rule that a schedule's name belongs either to the code or to whoever calls `schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

from .app import current
from .errors import ConfigurationError
from .sending.portal import portal
from .sending.preparing import prepare_template
from .sending.schedule_values import Definition, Scheduled
from .sending.schedules import Schedules
from .tasks.call import Dispatchable, as_call
from .tasks.schedule import CatchUp, check_catch_up, check_name
from .tasks.task import registry
from .tasks.timetable import Once, timetable


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is now.

    Attributes:
        task: The name of the task that it calls.
        queue: The queue that its calls go to.
        timetable: When it makes calls, in words.
        next: The next tick; `None` while it is paused.
        last: The last tick made; before the first, when it was scheduled.
        is_declared: Whether a task declares it in code.
    """

    name: str
    task: str
    queue: str
    timetable: str
    catch_up: CatchUp
    next: datetime | None
    last: datetime
    is_paused: bool
    is_declared: bool


async def schedule(
    call: Dispatchable[Any],
    *,
    name: str,
    cron: str | None = None,
    timezone: str | None = None,
    every: timedelta | None = None,
    at: datetime | None = None,
    catch_up: CatchUp = "last",
) -> None:
    """Let the workers make a call regularly, or once at some time; the broker keeps the schedule.

    Replaces a schedule of the same name: its old ticks do not come again, and it stays paused if it
    is. Give exactly one of `cron`, `every` and `at`.

    Args:
        call: The call to make. Model instances travel as references, so each run gets fresh rows.
        name: Identifies the schedule among all others.
        cron: A cron expression: five fields, or six with seconds first.
        timezone: The time zone of `cron`; by default `"UTC"`.
        every: At multiples of this interval since the start of 1970, UTC.
        at: Once, at this aware time; right away if it has passed.
        catch_up: Which ticks to make up for if no worker was there for them.

    Raises:
        ValueError: Such a schedule cannot exist, or the call has a delay or waits for a commit.
        SerializationError: An argument cannot travel.
        ConfigurationError: The broker cannot keep schedules, or a task declares one of this name.
        BrokerUnavailable: It may not have been kept; call again.
    """
    check_name(name)
    check_catch_up(catch_up)
    table = timetable(cron, timezone, every, at)
    app = current()
    template = prepare_template(as_call(call, "schedule()"), app.config, app.adapters)
    kept = await _schedules().get(name)
    if kept is not None and kept.scheduled.definition.is_declared and name in await _live():
        raise ConfigurationError(f"a task declares the schedule {name!r}; take another name")
    last = table.at_ms - 1 if isinstance(table, Once) else _now()
    await _schedules().put(Scheduled(name, Definition(template, table, catch_up), last))


async def unschedule(name: str) -> bool:
    """Delete a schedule; returns whether there was one.

    A schedule that a task declares comes back while workers have its code: pause it instead.

    Raises:
        BrokerUnavailable: It may not have been deleted; call again.
    """
    return await _schedules().remove(name)


async def schedules() -> list[Schedule]:
    """All schedules, by name, except those whose code is gone.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    kept, live = await _schedules().all({}), await _live()
    return [
        _shown(one.scheduled)
        for name, one in sorted(kept.items())
        if not one.scheduled.definition.is_declared or name in live
    ]


async def pause(name: str) -> bool:
    """Stop a schedule from making calls until `resume`; returns whether it exists."""
    return await _schedules().change(name, lambda one: replace(one, is_paused=True))


async def resume(name: str) -> bool:
    """Let a schedule go on from now, without making up for what it missed."""
    now = _now()
    return await _schedules().change(name, lambda one: replace(one, is_paused=False, last=now))


async def run_now(name: str) -> str | None:
    """Make a schedule's call once, in addition to its ticks.

    Returns:
        The message's id; `None` if there is no such schedule.
    """
    kept, app = await _schedules().get(name), current()
    if kept is None:
        return None
    outgoing = kept.scheduled.call_now(_now(), app.config.signing_key)
    await app.connections.put((outgoing,))
    return outgoing.id


async def next_ticks(name: str, count: int) -> list[datetime] | None:
    """The next ticks of a schedule unless it is paused; `None` if there is no such schedule."""
    kept = await _schedules().get(name)
    if kept is None:
        return None
    ticks: list[datetime] = []
    tick: int | None = max(kept.scheduled.last, _now())
    while tick is not None and len(ticks) < count:
        if (tick := kept.scheduled.definition.timetable.next_after(tick)) is not None:
            ticks.append(_moment(tick))
    return ticks


def schedule_sync(
    call: Dispatchable[Any],
    *,
    name: str,
    cron: str | None = None,
    timezone: str | None = None,
    every: timedelta | None = None,
    at: datetime | None = None,
    catch_up: CatchUp = "last",
) -> None:
    """`schedule` for synchronous code."""
    portal.run(
        schedule(
            call, name=name, cron=cron, timezone=timezone, every=every, at=at, catch_up=catch_up
        )
    )


def unschedule_sync(name: str) -> bool:
    """`unschedule` for synchronous code."""
    return portal.run(unschedule(name))


def schedules_sync() -> list[Schedule]:
    """`schedules` for synchronous code."""
    return portal.run(schedules())


def _schedules() -> Schedules:
    return Schedules(current().open_broker(), current().config.signing_key)


async def _live() -> set[str]:
    """Names of the schedules declared by live workers or by code loaded here."""
    here = {one.name for task in registry.values() for one in task.schedules}
    return here.union(*(await _schedules().declared()).values())


def _now() -> int:
    return int(time() * 1000)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _shown(one: Scheduled) -> Schedule:
    definition = one.definition
    return Schedule(
        name=one.name,
        task=definition.template.task,
        queue=definition.template.queue,
        timetable=str(definition.timetable),
        catch_up=definition.catch_up,
        next=None if one.next is None else _moment(one.next),
        last=_moment(one.last),
        is_paused=one.is_paused,
        is_declared=definition.is_declared,
    )
