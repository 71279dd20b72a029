"""The services that an application's configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from ..app import App
from ..tasks.task import registry
from .forgetting import Forgetting
from .relay import Relay
from .running import Service


def services_of(app: App) -> Sequence[Service]:
    """What the workers of this application do for all, for the running event loop."""
    services: list[Service] = []
    defaults = app.config.task_defaults
    has_atomic_tasks = any(task.options(defaults).atomic for task in registry.values())
    if app.config.outbox or has_atomic_tasks:
        services.append(Relay(app.outbox, app.open_broker(), app.config.signing_key))
    if has_atomic_tasks:
        services.append(Forgetting(app.outbox, app.config.done_ttl))
    return services
