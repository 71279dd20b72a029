"""The services that an application's configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from ..app import App
from .relay import Relay
from .running import Service


def services_of(app: App) -> Sequence[Service]:
    """What the workers of this application do for all, for the running event loop."""
    services: list[Service] = []
    if app.outbox is not None:
        services.append(Relay(app.outbox, app.open_broker()))
    return services
