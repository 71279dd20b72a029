"""Which backends in `settings.TASKS` are ours, read without creating any."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string


def own_backends() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Alias and parameters of each backend that puts tasks on asynctasq's queues."""
    for alias, params in (getattr(settings, "TASKS", None) or {}).items():
        try:
            cls = import_string(params["BACKEND"])
        except ImportError:
            continue  # Django reports it when the backend is used
        # Not imported here: neither Django's Tasks nor the backport may be installed.
        ours = sys.modules.get("asynctasq_django.tasks_backend")
        if ours is not None and isinstance(cls, type) and issubclass(cls, ours.AsynctasqBackend):
            yield alias, params


def queue_names() -> list[str]:
    """The queues that our backends may put tasks on."""
    return [queue for _, params in own_backends() for queue in params.get("QUEUES") or ()]
