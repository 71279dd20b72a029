"""The services that an application's configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any

from ..app import App
from ..brokers import Remembering
from ..errors import ConfigurationError, SerializationError
from ..sending.preparing import prepare_template
from ..sending.schedule_values import Definition, Scheduled
from ..sending.schedules import Schedules
from ..tasks.schedule import DeclaredSchedule
from ..tasks.task import Task, registry
from .backlog import has_atomic_tasks
from .forgetting import Forgetting
from .relay import Relay
from .running import Service
from .ticking import Declaring, Ticking

_STARTED_MS = int(time() * 1000)


def services_of(app: App) -> Sequence[Service]:
    """The services of this application's workers, for the running event loop."""
    services: list[Service] = []
    is_atomic = has_atomic_tasks(app.config)
    if app.config.outbox or is_atomic:
        services.append(Relay(app.outbox, app.open_broker(), app.config.signing_key))
    if is_atomic:
        services.append(Forgetting(app.outbox, app.config.done_ttl))
    return [*services, *_of_schedules(app)]


def _of_schedules(app: App) -> Sequence[Service]:
    broker = app.open_broker()
    if not isinstance(broker, Remembering):
        return ()
    schedules = Schedules(broker, app.config.signing_key)
    declared = declared_schedules(app)
    ticking = Ticking(schedules, has_declared=bool(declared))
    return [Declaring(schedules, declared, _STARTED_MS), ticking] if declared else [ticking]


def declared_schedules(app: App) -> list[Scheduled]:
    """The schedules that this process's tasks declare, starting now.

    Raises:
        ConfigurationError: A schedule's arguments do not fit its task; names it.
    """
    now = int(time() * 1000)
    return [
        Scheduled(one.name, _definition(app, task, one), now)
        for task in registry.values()
        for one in task.schedules
    ]


def _definition(app: App, task: Task[Any, Any], one: DeclaredSchedule) -> Definition:
    try:
        template = prepare_template(task(*one.args, **one.kwargs), app.config, app.adapters)
    except (TypeError, ValueError, SerializationError) as e:
        raise ConfigurationError(f"schedule {one.name!r}: {e}") from e
    return Definition(template, one.timetable, one.catch_up, is_declared=True)


def check_schedules(app: App) -> None:
    """Check that all declared schedules can be honoured.

    Raises:
        ConfigurationError: A schedule's arguments do not fit its task, two schedules have the same
            name, or the broker cannot keep schedules.
    """
    names = [scheduled.name for scheduled in declared_schedules(app)]
    if names:
        Schedules(app.open_broker(), app.config.signing_key)
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"two schedules are named {min(twice)!r}")
